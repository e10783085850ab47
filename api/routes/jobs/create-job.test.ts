import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createBacklog, type Backlog } from '#api/http/backlog.ts';
import { jobSchema } from '#api/present-job.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { waitFor } from '#test/support/wait-for.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi({
    WINDLASS_JSON_BYTES_MAX: '4096',
    WINDLASS_JSON_DEPTH_MAX: '5',
    WINDLASS_JSON_KEYS_MAX: '150',
  });
  client = await api.client();
});
afterAll(() => api.dispose());

interface Job {
  readonly id: string;
  readonly input: Record<string, unknown>;
}
interface Problem {
  readonly code: string;
  readonly detail: string;
  readonly errors?: { pointer: string; detail: string }[];
}

async function accept(body: unknown, headers: Record<string, string> = {}): Promise<Job> {
  const response = await client.post('/v1/jobs', body, headers);
  expect(response.status).toBe(202);
  return (await response.json()) as Job;
}

async function refuse(status: number, body: unknown): Promise<Problem> {
  const before = await countJobs();
  const response = await client.post('/v1/jobs', body);
  expect(response.status).toBe(status);
  expect(response.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(await countJobs()).toBe(before);
  return (await response.json()) as Problem;
}

async function countJobs(): Promise<number> {
  const { rows } = await api.db.query<{ count: number }>('SELECT count(*) AS count FROM jobs');
  return rows[0]?.count ?? 0;
}

async function upload(): Promise<string> {
  const response = await client.request('POST', '/v1/files', {
    body: 'x',
    headers: { 'content-type': 'text/plain' },
  });
  return ((await response.json()) as { id: string }).id;
}

describe('202', () => {
  test('answers with the stored job, where it is, and when to ask', async () => {
    const response = await client.post('/v1/jobs', { task: 'test.echo', input: { value: 'ä😀' } });
    expect(response.status).toBe(202);
    const job = jobSchema.strict().parse(await response.json());
    expect(job).toMatchObject({
      task: 'test.echo',
      queue: 'host',
      state: 'queued',
      input: { value: 'ä😀' },
      result: null,
      attempts: [],
      attemptsMax: 3,
    });
    expect(response.headers.get('location')).toBe(`/v1/jobs/${job.id}`);
    expect(response.headers.get('retry-after')).toBe('1');
    expect(await (await client.get(`/v1/jobs/${job.id}`)).json()).toEqual(job);
  });

  test('input may be left out where {} will do', async () => {
    expect((await accept({ task: 'test.noop' })).input).toEqual({});
  });

  test('options decide when, how often and how important', async () => {
    const runAt = '2999-01-01T00:00:00.000Z';
    const job = await accept({
      task: 'test.noop',
      options: { runAt, priority: 7, attempts: 5, tags: ['a', 'b:c'], retentionMs: 5_000 },
    });
    expect(job).toMatchObject({ state: 'scheduled', runAt, priority: 7, attemptsMax: 5, tags: ['a', 'b:c'] });
    expect(await accept({ task: 'test.noop', options: { delayMs: 60_000 } })).toMatchObject({
      state: 'scheduled',
    });
    expect(
      await accept({ task: 'test.noop', options: { runAt: '2020-01-01T00:00:00+02:00' } }),
    ).toMatchObject({ state: 'queued' });
  });
});

describe('202 with Idempotency-Key', () => {
  test('equal requests at the same moment make one job and get one answer', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const before = await countJobs();
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        // The order of keys in JSON says nothing.
        const value = index % 2 === 0 ? { a: 1, b: 2 } : { b: 2, a: 1 };
        const response = await client.post('/v1/jobs', { task: 'test.echo', input: { value } }, headers);
        return {
          status: response.status,
          replayed: response.headers.get('idempotency-replayed'),
          id: ((await response.json()) as Job).id,
        };
      }),
    );
    expect(await countJobs()).toBe(before + 1);
    expect(new Set(answers.map(({ id, status }) => `${status} ${id}`)).size).toBe(1);
    expect(answers.filter(({ replayed }) => replayed === null)).toHaveLength(1);
  });

  test('a repetition gets the first answer, whatever became of the job meanwhile', async () => {
    const headers = { 'idempotency-key': '"quoted-or-bare"' };
    const body = { task: 'test.noop', input: { n: 1 }, options: { delayMs: 60_000 } };
    const first = await accept(body, headers);
    await client.post(`/v1/jobs/${first.id}/cancel`);
    expect(await accept(body, { 'idempotency-key': 'quoted-or-bare' })).toEqual(first);
  });

  test('a repetition gets the first answer, also when its file was deleted after the job had ended', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const fileId = await upload();
    const body = { task: 'email.send', input: { ...email, attachments: [{ fileId }] } };
    const first = await accept(body, headers);
    await client.post(`/v1/jobs/${first.id}/cancel`);
    expect((await client.request('DELETE', `/v1/files/${fileId}`)).status).toBe(204);
    expect(await accept(body, headers)).toEqual(first);
    const other = await client.post('/v1/jobs', body, { 'idempotency-key': randomUUID() });
    expect(await other.json()).toMatchObject({ code: 'file-not-found' });
  });

  test('422 for another request under the same key', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    await accept({ task: 'test.noop', input: { n: 1 } }, headers);
    for (const body of [
      { task: 'test.noop', input: { n: 2 } },
      { task: 'test.noop', input: { n: 1 }, options: { priority: 1 } },
    ]) {
      const response = await client.post('/v1/jobs', body, headers);
      expect(response.status).toBe(422);
      expect(await response.json()).toMatchObject({ code: 'idempotency-mismatch' });
    }
  });

  test.each(['', ' ', 'a b', 'ä', 'x'.repeat(256)])('400 for the key %j', async (key) => {
    const headers = { 'idempotency-key': Buffer.from(key).toString('latin1') };
    const response = await client.post('/v1/jobs', { task: 'test.noop' }, headers);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'invalid-idempotency-key' });
  });
});

describe('400', () => {
  test.each(['{', '{"task":"test.noop"', 'undefined'])('%j is not JSON', async (body) => {
    const response = await client.request('POST', '/v1/jobs', {
      body,
      headers: { 'content-type': 'application/json' },
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'invalid-json' });
  });
});

describe('413', () => {
  test.each([
    ['too many bytes', { value: 'x'.repeat(5_000) }, '4096 bytes'],
    ['too deep', { value: [[[[1]]]] }, '5 levels'],
    ['too many keys', { value: Array.from({ length: 160 }, () => 1) }, '150 keys'],
  ])('%s: the answer says the limit', async (_what, input, limit) => {
    const problem = await refuse(413, { task: 'test.echo', input });
    expect(problem.code).toBe('content-too-large');
    expect(problem.detail).toContain(limit);
  });
});

describe('415', () => {
  test.each(['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp'])('%s', async (type) => {
    const response = await client.request('POST', '/v1/jobs', {
      body: '{}',
      headers: { 'content-type': type },
    });
    expect(response.status).toBe(415);
    expect(await response.json()).toMatchObject({ code: 'unsupported-media-type' });
  });
});

describe('422', () => {
  test.each([
    [{ task: 'test.noop', input: { n: 1.5 } }, '/input/n'],
    [{ task: 'test.noop', input: { m: 1 } }, '/input/m'],
    [{ task: 'test.noop', input: [] }, '/input'],
    [{ task: 'test.noop', input: null }, '/input'],
    [{ input: {} }, '/task'],
    [{ task: 'test.noop', inputs: {} }, '/inputs'],
    [{ task: 'test.noop', options: { retries: 3 } }, '/options/retries'],
    [{ task: 'test.noop', options: { attempts: 11 } }, '/options/attempts'],
    [{ task: 'test.noop', options: { timeoutMs: 3_600_001 } }, '/options/timeoutMs'],
    [{ task: 'test.noop', options: { delayMs: 1, runAt: '2999-01-01T00:00:00Z' } }, '/options/runAt'],
    [{ task: 'test.noop', options: { runAt: '2999-02-30T00:00:00Z' } }, '/options/runAt'],
    [
      { task: 'test.noop', options: { runAt: '9999-12-31T23:59:59Z', startWithinMs: 1_000 } },
      '/options/startWithinMs',
    ],
    [{ task: 'test.noop', options: { tags: ['a,b'] } }, '/options/tags/0'],
    [{ task: 'test.echo', input: { value: 'a\0b' } }, '/input/value'],
    [{ task: 'test.echo', input: { value: { '\ud800': 1 } } }, '/input/value/\ud800'],
    ['a string', ''],
  ])('%j points at %s', async (body, pointer) => {
    const problem = await refuse(422, body);
    expect(problem.code).toBe('invalid-input');
    expect(problem.errors?.map((error) => error.pointer.toWellFormed())).toContain(pointer.toWellFormed());
  });

  test('an unknown task is answered with the nearest one', async () => {
    expect(await refuse(422, { task: 'image.resise', input: {} })).toMatchObject({
      code: 'unknown-task',
      detail: 'There is no task "image.resise". Did you mean "image.resize"?',
      errors: [{ pointer: '/task' }],
    });
  });

  test.each(['__proto__', 'constructor', 'toString'])('%s is no task', async (task) => {
    expect(await refuse(422, { task })).toMatchObject({ code: 'unknown-task' });
  });

  test('a file that does not exist is named', async () => {
    const [known, unknown] = [await upload(), randomUUID()];
    expect(await refuse(422, { task: 'test.files', input: { files: [known, unknown] } })).toMatchObject({
      code: 'file-not-found',
      errors: [{ pointer: '/input/files/1', detail: expect.stringContaining(unknown) as unknown }],
    });
  });

  test('a key called __proto__ is refused like any unknown one', async () => {
    const response = await client.request('POST', '/v1/jobs', {
      body: '{"task":"test.noop","input":{"__proto__":{"n":1}}}',
      headers: { 'content-type': 'application/json' },
    });
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: 'invalid-input' });
  });
});

describe('503', () => {
  test('a full backlog says when to try again', async () => {
    await insertJob(api.db);
    // Backlogs are counted when a process starts, and now and then afterwards.
    const backlog = createBacklog({ db: api.db, max: 1 });
    const deps: { backlog: Backlog } = api.deps;
    const before = deps.backlog;
    deps.backlog = backlog;
    try {
      const response = await waitFor(
        async () => {
          const answer = await client.post('/v1/jobs', { task: 'test.noop' });
          return answer.status === 202 ? undefined : answer;
        },
        { what: 'the backlog to be counted' },
      );
      expect(response.status).toBe(503);
      expect(response.headers.get('retry-after')).toBe('30');
      expect(await response.json()).toMatchObject({ code: 'backlog-full', retryable: true });
    } finally {
      backlog.stop();
      deps.backlog = before;
    }
  });
});

const email = { to: ['ada@example.com'], subject: 'Hello', text: 'Hello.' };

describe('options.runAt', () => {
  test.each([
    ['2999-01-01T00:00:00+23:59', '2998-12-31T00:01:00.000Z'],
    ['2999-01-01T00:00:00-16:00', '2999-01-01T16:00:00.000Z'],
    [`2999-01-01T00:00:00.${'1'.repeat(500)}Z`, '2999-01-01T00:00:00.111Z'],
    ['9999-12-31T23:59:59.999Z', '9999-12-31T23:59:59.999Z'],
  ])('%s is a time like any other', async (runAt, inUtc) => {
    const response = await client.post('/v1/jobs', { task: 'email.send', input: email, options: { runAt } });
    expect(response.status).toBe(202);
    const { id } = (await response.json()) as { id: string };
    expect(await client.job(id)).toMatchObject({ state: 'scheduled', runAt: inUtc });
  });

  test.each(['0000-01-01T00:00:00Z', '0001-01-01T00:00:00+01:00', '9999-12-31T23:59:59-01:00'])(
    '%s, which cannot be stored, is refused with its place',
    async (runAt) => {
      const response = await client.post('/v1/jobs', {
        task: 'email.send',
        input: email,
        options: { runAt },
      });
      expect(response.status).toBe(422);
      expect(await response.json()).toMatchObject({ errors: [{ pointer: '/options/runAt' }] });
    },
  );
});

test.each(['gzip', 'deflate', 'br', 'zstd'])(
  'a body that is not the %s it claims to be is a 400',
  async (encoding) => {
    const response = await fetch(`${api.url}/v1/jobs`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${client.key}`,
        'content-type': 'application/json',
        'content-encoding': encoding,
      },
      body: '{"task":"email.send"}',
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'bad-request' });
  },
);

test('a file named twice, once in capitals, is one file', async () => {
  const id = await upload();
  const attachments = [{ fileId: id }, { fileId: id.toUpperCase() }];
  const response = await client.post('/v1/jobs', { task: 'email.send', input: { ...email, attachments } });
  expect(response.status).toBe(202);
  const job = (await response.json()) as { id: string };
  const { rows } = await api.db.query('SELECT file_id FROM job_inputs WHERE job_id = $1', [job.id]);
  expect(rows).toEqual([{ file_id: id }]);
});

describe('dependsOn', () => {
  test('a job that waits for others is blocked, says for which, and gets the same answer when it is sent again', async () => {
    const [first, second] = [await insertJob(api.db), await insertJob(api.db)];
    const body = {
      task: 'test.noop',
      options: { dependsOn: [first.toUpperCase(), { job: second, on: 'end' }, first] },
    };
    const headers = { 'idempotency-key': randomUUID() };
    const dependsOn = [
      { job: first, on: 'success' },
      { job: second, on: 'end' },
    ];
    const job = await accept(body, headers);
    expect(job).toMatchObject({ state: 'blocked', dependsOn });
    expect(await accept(body, headers)).toEqual(job);
    expect(await (await client.get(`/v1/jobs/${job.id}`)).json()).toMatchObject({
      state: 'blocked',
      dependsOn,
    });
    // A cancel ends what waits, and what waits for that.
    await client.post(`/v1/jobs/${first}/cancel`);
    const ended = await (await client.get(`/v1/jobs/${job.id}?wait=5`)).json();
    expect(ended).toMatchObject({ state: 'cancelled', error: { code: 'parent-failed' } });
  });

  test('422 names every job that does not exist or is another tenant’s', async () => {
    const [own, foreign, missing] = [
      await insertJob(api.db),
      await insertJob(api.db, { tenantId: 'stranger' }),
      randomUUID(),
    ];
    const problem = await refuse(422, {
      task: 'test.noop',
      options: { dependsOn: [own, foreign, { job: missing }] },
    });
    expect(problem).toMatchObject({
      code: 'parent-not-found',
      errors: [{ pointer: '/options/dependsOn/1' }, { pointer: '/options/dependsOn/2' }],
    });
  });

  test('422 for more jobs than one may wait for', async () => {
    const dependsOn = Array.from({ length: 101 }, () => randomUUID());
    expect(await refuse(422, { task: 'test.noop', options: { dependsOn } })).toMatchObject({
      errors: [{ pointer: '/options/dependsOn' }],
    });
  });
});
