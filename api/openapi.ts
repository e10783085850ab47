/**
 * The OpenAPI 3.1 document, made from the routes and the tasks: what the router checks is what is written here.
 * (Not 3.2: client generators lose its stream types.)
 */
import type { z } from 'zod';
import { errorTable, type ErrorCode } from '#shared/errors.ts';
import { readVersion } from '#shared/version.ts';
import { curlExamples } from './openapi/curl-examples.ts';
import type { ResponseDoc, Route } from './http/define-route.ts';
import { toJsonSchema, type JsonSchema } from './openapi/json-schema.ts';
import { createComponents, type Components } from './openapi/components.ts';
import type { MediaType, OpenApiDocument, Operation, Parameter, ResponseObject } from './openapi/document.ts';
import { describeNewJob } from './openapi/new-job.ts';
import { operationId } from './openapi/operation-id.ts';
import type { ApiTask } from './task-catalog.ts';

const securityScheme = 'apiKey';

/** @throws Error when two schemas claim one name: a mistake in the code, or in a user's task. */
export function createOpenApi(options: {
  routes: readonly Route[];
  tasks: ReadonlyMap<string, ApiTask>;
}): OpenApiDocument {
  const components = createComponents();
  components.name(describeProblem(), 'Problem');
  const tasks = [...options.tasks.values()].toSorted((a, b) =>
    a.definition.name < b.definition.name ? -1 : 1,
  );
  const paths: Record<string, Record<string, Operation>> = {};
  for (const route of options.routes) {
    const path = route.path.replaceAll(/:(\w+)/g, '{$1}');
    (paths[path] ??= {})[route.method] = describeRoute(route, components, tasks);
  }
  return {
    openapi: '3.1.1',
    info: {
      title: 'Windlass',
      version: readVersion(),
      description:
        'Background work as a service: send a job or a file, get an id back at once, and ask for the result.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ [securityScheme]: [] }],
    tags: [
      {
        name: 'Jobs',
        description: 'A job is one run of a task, kept until it has ended and a while longer.',
      },
      { name: 'Workflows', description: 'Jobs that wait for each other and use each other’s results.' },
      { name: 'Schedules', description: 'Jobs that are made again and again, by the clock.' },
      { name: 'Files', description: 'What jobs read and write. Uploaded once, referred to by id.' },
      { name: 'E-mail', description: 'Jobs of the task `email.send`, in the shape that mailers expect.' },
      { name: 'Tasks', description: 'What this service can do.' },
      {
        name: 'Queues and workers',
        description: 'For those who run the service. Queues and workers serve all tenants.',
      },
      { name: 'Administration', description: 'API keys, by which tenants are told apart.' },
      { name: 'Operation', description: 'For load balancers, monitoring, and readers. No key is needed.' },
    ],
    paths,
    components: {
      schemas: components.schemas,
      securitySchemes: {
        [securityScheme]: {
          type: 'http',
          scheme: 'bearer',
          description:
            'An API key: `Authorization: Bearer wl_live_…`. It has a tenant and scopes: `submit`, `read`, `operate`, `admin`; admin keys may do everything.',
        },
      },
    },
  };
}

function describeRoute(route: Route, components: Components, tasks: readonly ApiTask[]): Operation {
  const id = operationId(route);
  const body = describeBody(route, id, components, tasks);
  const operation = {
    operationId: id,
    tags: [route.tag],
    summary: route.summary,
    ...(route.description !== undefined && { description: route.description }),
    parameters: describeParameters(route, id, components),
    ...(body !== undefined && {
      requestBody: { required: route.body !== undefined || isNewJob(route), content: body },
    }),
    responses: describeResponses(route, id, components),
    security: route.scope === 'public' ? [] : [{ [securityScheme]: [route.scope] }],
  };
  return { ...operation, 'x-codeSamples': curlExamples(route, operation, components.schemas) };
}

function describeParameters(route: Route, id: string, components: Components): Parameter[] {
  const path = propertiesOf(route.params, `${id}.path`, components);
  const query = propertiesOf(route.query, `${id}.query`, components);
  return [
    ...[...route.path.matchAll(/:(\w+)/g)].map(([, name = '']) =>
      toParameter('path', name, path.properties[name] ?? { type: 'string' }, true),
    ),
    ...Object.entries(query.properties).map(([name, schema]) =>
      toParameter('query', name, schema, query.required.includes(name)),
    ),
    ...Object.entries(route.headers ?? {}).map(([name, description]) =>
      toParameter('header', name, { type: 'string', description }, false),
    ),
  ];
}

function toParameter(place: Parameter['in'], name: string, schema: JsonSchema, required: boolean): Parameter {
  const { description, ...rest } = schema;
  return { name, in: place, required, ...(description !== undefined && { description }), schema: rest };
}

function propertiesOf(
  type: z.ZodType | undefined,
  owner: string,
  components: Components,
): { properties: Record<string, JsonSchema>; required: string[] } {
  const { properties = {}, required = [] } =
    type === undefined ? {} : components.take(toJsonSchema(type, 'input'), owner);
  return { properties, required };
}

function isNewJob(route: Route): boolean {
  return route.method === 'post' && route.path === '/v1/jobs';
}

function describeBody(
  route: Route,
  id: string,
  components: Components,
  tasks: readonly ApiTask[],
): Record<string, MediaType> | undefined {
  if (isNewJob(route)) return describeNewJob(components, tasks);
  if (route.body !== undefined)
    return {
      'application/json': { schema: components.take(toJsonSchema(route.body, 'input'), `${id}.body`) },
    };
  if (route.streams === undefined) return undefined;
  return Object.fromEntries(
    Object.entries(route.streams).map(([mediaType, { description, schema }]) => [
      mediaType,
      {
        description,
        ...(schema !== undefined && { schema: components.take(toJsonSchema(schema, 'input'), `${id}.body`) }),
      },
    ]),
  );
}

function describeResponses(route: Route, id: string, components: Components): Record<string, ResponseObject> {
  const responses: Record<string, ResponseObject> = {};
  for (const [status, response] of Object.entries(route.responses))
    responses[status] = describeResponse(response, id, components);
  for (const [status, codes] of Object.entries(
    Object.groupBy(listProblems(route), (code) => String(errorTable[code].status)),
  )) {
    responses[status] = mergeProblems(responses[status], codes ?? []);
  }
  return responses;
}

function describeResponse(response: ResponseDoc, id: string, components: Components): ResponseObject {
  const { description, schema, headers, contentType = 'application/json' } = response;
  const hasContent = schema !== undefined || response.contentType !== undefined;
  return {
    description,
    ...(headers !== undefined && {
      headers: Object.fromEntries(
        Object.entries(headers).map(([name, text]) => [
          name,
          { description: text, schema: { type: 'string' } },
        ]),
      ),
    }),
    ...(hasContent && {
      content: {
        [contentType]:
          schema === undefined
            ? {}
            : { schema: components.take(toJsonSchema(schema, 'output'), `${id}.response`) },
      },
    }),
  };
}

/** Those that the route names, and those that follow from what it takes. */
export function listProblems(route: Route): ErrorCode[] {
  const implied: ErrorCode[] = ['internal', 'unavailable'];
  if (route.scope !== 'public') implied.push('unauthorized', 'forbidden', 'rate-limited');
  if (route.query !== undefined) implied.push('bad-request');
  if (route.body !== undefined)
    implied.push('invalid-json', 'content-too-large', 'unsupported-media-type', 'invalid-input');
  return [...new Set([...(route.problems ?? []), ...implied])];
}

function mergeProblems(response: ResponseObject | undefined, codes: readonly ErrorCode[]): ResponseObject {
  const lines = codes.map((code) => `\`${code}\`: ${errorTable[code].title}.`);
  return {
    ...response,
    description: [...(response === undefined ? [] : [response.description]), ...lines].join('\n'),
    content: {
      ...response?.content,
      'application/problem+json': {
        schema: {
          allOf: [{ $ref: '#/components/schemas/Problem' }, { properties: { code: { enum: [...codes] } } }],
        },
      },
    },
  };
}

function describeProblem(): JsonSchema {
  return {
    title: 'Problem (RFC 9457)',
    type: 'object',
    properties: {
      type: {
        type: 'string',
        format: 'uri',
        description: 'A page that explains the code; this service serves it.',
      },
      title: { type: 'string' },
      status: { type: 'integer', description: 'The HTTP status.' },
      detail: { type: 'string', description: 'What was wrong this time, and what to do.' },
      instance: { type: 'string', description: 'Id of the request, for finding it in the logs.' },
      code: {
        type: 'string',
        enum: Object.keys(errorTable),
        description: 'For programs. Codes are never renamed.',
      },
      retryable: { type: 'boolean', description: 'May the same request succeed later?' },
      errors: {
        type: 'array',
        items: {
          type: 'object',
          properties: {
            pointer: { type: 'string', description: 'JSON Pointer into the body.' },
            detail: { type: 'string' },
          },
          required: ['pointer', 'detail'],
        },
      },
    },
    required: ['type', 'title', 'status', 'detail', 'instance', 'code', 'retryable'],
  };
}
