/**
 * A line for the shell per way of using a call. `WINDLASS_URL` and `WINDLASS_KEY` are variables of the reader's shell,
 * so that every example can be pasted as it is.
 */
import type { Route } from '#api/http/define-route.ts';
import type { JsonSchema } from './json-schema.ts';
import type { CodeSample, MediaType, Operation } from './document.ts';

const exampleId = '0199d7a3-1f5c-7cc0-8000-000000000000';

export function curlExamples(
  route: Route,
  operation: Pick<Operation, 'parameters' | 'requestBody' | 'security'>,
  schemas: Readonly<Record<string, JsonSchema>>,
): CodeSample[] {
  const base = [
    `curl${route.method === 'get' ? '' : ` -X ${route.method.toUpperCase()}`} "$WINDLASS_URL${examplePath(route, operation)}"`,
    ...(operation.security.length > 0 ? ['-H "Authorization: Bearer $WINDLASS_KEY"'] : []),
  ];
  const bodies = Object.entries(operation.requestBody?.content ?? {}).flatMap(([mediaType, media]) =>
    exampleBodies(mediaType, media, schemas),
  );
  if (bodies.length === 0) return [{ lang: 'curl', label: route.summary, source: join(base) }];
  return bodies.map(({ label, args }) => ({
    lang: 'curl',
    label: label ?? route.summary,
    source: join([...base, ...args]),
  }));
}

function join(args: readonly string[]): string {
  return args.join(' \\\n  ');
}

function examplePath(route: Route, { parameters }: Pick<Operation, 'parameters'>): string {
  const path = route.path.replaceAll(/:(\w+)/g, (_, name: string) => {
    const example = parameters.find((parameter) => parameter.in === 'path' && parameter.name === name)?.schema
      .examples?.[0];
    return typeof example === 'string' ? encodeURIComponent(example) : exampleId;
  });
  const query = parameters.flatMap(({ in: place, name, schema }) => {
    const [example] = place === 'query' ? (schema.examples ?? []) : [];
    return example === undefined
      ? []
      : [`${name}=${encodeURIComponent(typeof example === 'string' ? example : JSON.stringify(example))}`];
  });
  return query.length === 0 ? path : `${path}?${query.join('&')}`;
}

interface ExampleBody {
  readonly label: string | undefined;
  readonly args: readonly string[];
}

function exampleBodies(
  mediaType: string,
  media: MediaType,
  schemas: Readonly<Record<string, JsonSchema>>,
): ExampleBody[] {
  switch (mediaType) {
    case 'application/json': {
      const [named] = Object.values(media.examples ?? {});
      const example = named?.value ?? resolve(media.schema, schemas)?.examples?.[0];
      if (example === undefined) return [];
      return [
        {
          label: named?.summary,
          args: [`-H 'Content-Type: application/json'`, `-d ${quote(formatJson(example))}`],
        },
      ];
    }
    case 'application/x-ndjson': {
      const example = resolve(media.schema, schemas)?.examples?.[0];
      if (example === undefined) return [];
      const lines = [`-H 'Content-Type: ${mediaType}'`, `-d ${quote(JSON.stringify(example))}`];
      return [{ label: 'As lines', args: lines }];
    }
    case '*/*':
      return [
        {
          label: undefined,
          args: [
            `-H 'Content-Type: image/jpeg'`,
            `-H 'Content-Disposition: attachment; filename="photo.jpg"'`,
            '--data-binary @photo.jpg',
          ],
        },
      ];
    case 'multipart/form-data': {
      const fields = media.schema?.properties ?? {};
      const task = fields['task'] === undefined ? [] : ['-F task=image.resize', `-F 'input={"width":320}'`];
      return [{ label: 'As a form', args: [...task, '-F file=@photo.jpg'] }];
    }
    default:
      return [];
  }
}

function resolve(
  schema: JsonSchema | undefined,
  schemas: Readonly<Record<string, JsonSchema>>,
): JsonSchema | undefined {
  const name = schema?.$ref?.split('/').at(-1);
  return name === undefined ? schema : schemas[name];
}

/** On one line while it is short. */
export function formatJson(value: unknown): string {
  const line = JSON.stringify(value);
  return line.length <= 70 ? line : JSON.stringify(value, null, 2);
}

/** For a POSIX shell. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
