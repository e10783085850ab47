import { beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { defineTask } from '#shared/tasks/define-task.ts';
import { loadTasks } from '#shared/tasks/load-tasks.ts';
import { builtInTasks } from '#tasks/index.ts';
import { testTasksDir } from '#test/support/service.ts';
import { defineRoute } from './http/define-route.ts';
import { createOpenApi, listProblems } from './openapi.ts';
import { errorTable } from '#shared/errors.ts';
import type { OpenApiDocument, Operation } from './openapi/document.ts';
import type { JsonSchema } from './openapi/json-schema.ts';
import { operationId } from './openapi/operation-id.ts';
import { routes } from './routes.ts';
import { createTaskCatalog, type ApiTask } from './task-catalog.ts';

let tasks: ReadonlyMap<string, ApiTask>;
let document: OpenApiDocument;
beforeAll(async () => {
  // A task of a user may refer to itself, and have no name for it.
  const tree = z.strictObject({
    name: z.string(),
    get children() {
      return z.array(tree);
    },
  });
  const counted = z.strictObject({
    count: z.int(),
    get children() {
      return z.array(counted);
    },
  });
  const recursive = defineTask({
    name: 'test.tree',
    title: 'Tree',
    description: 'Takes a tree.',
    input: z.strictObject({ root: tree }),
    output: z.object({ root: counted }),
    example: { root: { name: 'a', children: [{ name: 'b', children: [] }] } },
  });
  tasks = createTaskCatalog(await loadTasks([...builtInTasks, recursive], testTasksDir));
  document = createOpenApi({ routes, tasks });
});

function* walk(node: unknown, path = '#'): Generator<{ path: string; node: Record<string, unknown> }> {
  if (typeof node !== 'object' || node === null) return;
  if (!Array.isArray(node)) yield { path, node: node as Record<string, unknown> };
  for (const [key, item] of Object.entries(node)) yield* walk(item, `${path}/${key}`);
}

/** What an RFC 6901 pointer leads to. */
function follow(pointer: string): unknown {
  const parts = pointer
    .replace(/^#\//, '')
    .split('/')
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
  return parts.reduce<unknown>(
    (node, part) => (node as Record<string, unknown> | undefined)?.[part],
    document,
  );
}

function listOperations(): { method: string; path: string; operation: Operation }[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation })),
  );
}

test('every reference leads somewhere, inside the document', () => {
  const references = [...walk(document)].flatMap(({ path, node }) =>
    typeof node['$ref'] === 'string' ? [{ path, ref: node['$ref'] }] : [],
  );
  expect(references.length).toBeGreaterThan(30);
  expect(
    references.filter(({ ref }) => !ref.startsWith('#/components/') || follow(ref) === undefined),
  ).toEqual([]);
  expect([...walk(document)].filter(({ node }) => '$defs' in node || '$schema' in node)).toEqual([]);
});

test('names of components are what OpenAPI allows', () => {
  expect(Object.keys(document.components.schemas).filter((name) => !/^[\w.-]+$/.test(name))).toEqual([]);
});

test('every route is a call of the document, and nothing else is', () => {
  const calls = listOperations().map(({ method, path }) => `${method} ${path}`);
  const expected = routes.map((route) => `${route.method} ${route.path.replaceAll(/:(\w+)/g, '{$1}')}`);
  expect(new Set(calls)).toEqual(new Set(expected));
  expect(calls).toHaveLength(expected.length);
});

test('every parameter in a path is declared, and required', () => {
  for (const { path, operation } of listOperations()) {
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    const declared = operation.parameters.filter((parameter) => parameter.in === 'path');
    expect(declared.map((parameter) => parameter.name)).toEqual(inPath);
    expect(declared.every((parameter) => parameter.required)).toBe(true);
  }
});

test('every call says what it answers, and which problems', () => {
  for (const route of routes) {
    const operation = follow(
      `#/paths/${route.path.replaceAll(/:(\w+)/g, '{$1}').replaceAll('/', '~1')}/${route.method}`,
    ) as Operation;
    for (const [status, response] of Object.entries(operation.responses)) {
      expect(status).toMatch(/^[1-5]\d\d$/);
      expect(response.description).not.toBe('');
    }
    for (const code of listProblems(route)) {
      const response = operation.responses[errorTable[code].status];
      expect(response?.description).toContain(`\`${code}\``);
      expect(response?.content).toHaveProperty('application/problem+json');
    }
    expect(operation.security).toEqual(route.scope === 'public' ? [] : [{ apiKey: [route.scope] }]);
  }
});

test('client generators find one name for every call, and it does not change', () => {
  const ids = listOperations().map(({ operation }) => operation.operationId);
  expect(new Set(ids).size).toBe(ids.length);
  const { paths } = document;
  expect(paths['/v1/jobs']?.['post']?.operationId).toBe('createJob');
  expect(operationId({ method: 'get', path: '/v1/jobs' })).toBe('listJobs');
  expect(operationId({ method: 'get', path: '/v1/jobs/:id' })).toBe('getJob');
  expect(operationId({ method: 'get', path: '/v1/jobs/:id/result' })).toBe('getJobResult');
  expect(operationId({ method: 'get', path: '/v1/jobs/:id/logs' })).toBe('listJobLogs');
  expect(operationId({ method: 'post', path: '/v1/jobs/:id/cancel' })).toBe('cancelJob');
  expect(operationId({ method: 'post', path: '/v1/jobs/batch' })).toBe('createJobBatch');
  expect(operationId({ method: 'get', path: '/v1/batches/:id' })).toBe('getBatch');
  expect(operationId({ method: 'delete', path: '/v1/keys/:id' })).toBe('deleteKey');
  expect(operationId({ method: 'post', path: '/v1/emails' })).toBe('createEmail');
  expect(operationId({ method: 'get', path: '/v1/emails/templates' })).toBe('listEmailTemplates');
  expect(operationId({ method: 'get', path: '/v1/files/:id/content' })).toBe('getFileContent');
  expect(operationId({ method: 'put', path: '/v1/schedules/:key' })).toBe('putSchedule');
  expect(operationId({ method: 'get', path: '/openapi.json' })).toBe('getOpenapiJson');
});

describe('the body of POST /v1/jobs', () => {
  test('has one alternative for every task, and its example fits that one alone', () => {
    const content = document.paths['/v1/jobs']?.['post']?.requestBody?.content['application/json'];
    const { oneOf = [], discriminator } = content?.schema ?? {};
    expect(Object.keys(discriminator?.mapping ?? {})).toEqual([...tasks.keys()].toSorted());
    expect(oneOf.map((item) => item.$ref)).toEqual(Object.values(discriminator?.mapping ?? {}));
    for (const [name, { value }] of Object.entries(content?.examples ?? {})) {
      const fitting = oneOf.filter((alternative) => toZod(alternative).safeParse(value).success);
      expect(fitting.map((item) => item.$ref)).toEqual([`#/components/schemas/NewJob.${name}`]);
    }
    expect(Object.keys(content?.examples ?? {})).toHaveLength(tasks.size);
  });

  test('does not take what the task does not know', () => {
    const body = toZod({ $ref: '#/components/schemas/NewJob.image.resize' });
    const file = '0199d7a3-1f5c-7cc0-8000-000000000000';
    expect(body.safeParse({ task: 'image.resize', input: { file, width: 10 } }).success).toBe(true);
    expect(body.safeParse({ task: 'image.resize', input: { file, width: 10, colour: 'red' } }).success).toBe(
      false,
    );
    expect(body.safeParse({ task: 'image.resize', input: { file, width: 0 } }).success).toBe(false);
    expect(body.safeParse({ task: 'image.resize', input: { file }, options: { priority: 10 } }).success).toBe(
      false,
    );
    expect(body.safeParse({ task: 'image.resize' }).success).toBe(false);
    expect(
      toZod({ $ref: '#/components/schemas/NewJob.test.noop' }).safeParse({ task: 'test.noop' }).success,
    ).toBe(true);
  });
});

test('two different schemas with one id are refused', () => {
  const route = (path: string, schema: z.ZodType) =>
    defineRoute({
      method: 'get',
      path,
      scope: 'public',
      tag: 'Operation',
      summary: path,
      responses: { 200: { description: 'ok', schema: z.object({ value: schema }) } },
      handle: () => Promise.resolve(),
    });
  const one = route('/one', z.object({ a: z.string() }).meta({ id: 'Twice' }));
  const again = route('/again', z.object({ b: z.string() }).meta({ id: 'Twice' }));
  expect(() => createOpenApi({ routes: [one, again], tasks: new Map() })).toThrow(
    'Two different schemas have the id "Twice"',
  );
});

/** A checker made from the document itself, with all it refers to. */
function toZod(schema: JsonSchema): z.ZodType {
  const text = JSON.stringify({ ...schema, $defs: document.components.schemas }).replaceAll(
    '#/components/schemas/',
    '#/$defs/',
  );
  return z.fromJSONSchema(JSON.parse(text) as z.core.JSONSchema.JSONSchema);
}
