import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { taskSchema } from '#api/present-task.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi({ WINDLASS_JOB_RETENTION_MS: '60000' });
  client = await api.client({ scopes: ['read'] });
});
afterAll(() => api.dispose());

describe('GET /v1/tasks 200', () => {
  test('lists every task by name, as its schema says', async () => {
    const response = await client.get('/v1/tasks');
    expect(response.status).toBe(200);
    const { data } = z.strictObject({ data: z.array(taskSchema.strict()) }).parse(await response.json());
    const names = data.map((task) => task.name);
    expect(names).toEqual([...api.deps.tasks.keys()].toSorted());
    expect(names).toContain('test.files');
  });
});

describe('GET /v1/tasks/{name} 200', () => {
  test('says all that a form or a request needs', async () => {
    const response = await client.get('/v1/tasks/test.files');
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({
      name: 'test.files',
      title: 'Files',
      description: 'Copies its input files to output files, in upper case.',
      queue: 'host',
      isolation: 'process',
      example: { file: '0195b7e4-5d3c-7000-8000-000000000000' },
      limits: {
        attempts: { default: 3, max: 10 },
        timeoutMs: { default: 300_000, max: 3_600_000 },
        backoff: { type: 'exponential', delayMs: 1_000, maxMs: 600_000 },
        crashesMax: 3,
        onCrash: 'retry',
        concurrencyPerKey: 1,
        rateLimit: null,
        rateLimitPerKey: null,
        retentionMs: 60_000,
      },
      takesFile: true,
      takesFiles: true,
      inputSchema: {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        type: 'object',
        properties: {
          file: expect.objectContaining({
            type: 'string',
            format: 'uuid',
            'x-windlass-file': true,
          }) as unknown,
          files: { type: 'array', items: expect.objectContaining({ 'x-windlass-file': true }) as unknown },
        },
        additionalProperties: false,
      },
      outputSchema: expect.objectContaining({ type: 'object', required: ['files'] }) as unknown,
    });
  });
});

describe('GET /v1/tasks/{name} 404', () => {
  test('names the nearest task', async () => {
    const response = await client.get('/v1/tasks/test.file');
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({
      code: 'not-found',
      detail: 'There is no task "test.file". Did you mean "test.files"?',
    });
  });

  test.each(['__proto__', 'constructor'])('%s is no task', async (name) => {
    expect((await client.get(`/v1/tasks/${name}`)).status).toBe(404);
  });
});
