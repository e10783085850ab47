import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createBacklog, type Backlog } from '#api/http/backlog.ts';
import { createRateLimiter, type RateLimiter } from '#api/http/rate-limit.ts';
import { createTenantQuotas, type TenantQuotas } from '#api/http/tenant-quotas.ts';
import { countWaitingOfTenant } from '#shared/db/tenant-usage.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { waitFor } from '#test/support/wait-for.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi({
    WINDLASS_JSON_BYTES_MAX: '4096',
    WINDLASS_JSON_DEPTH_MAX: '5',
    WINDLASS_JSON_KEYS_MAX: '50',
    WINDLASS_BATCH_ITEMS_MAX: '300',
    WINDLASS_BATCH_BYTES_MAX: '65536',
  });
  client = await api.client();
});
afterAll(() => api.dispose());

interface Item {
  readonly index: number;
  readonly id?: string;
  readonly state?: string;
  readonly location?: string;
  readonly problem?: Problem;
}
interface Batch {
  readonly id: string;
  readonly accepted: number;
  readonly refused: number;
  readonly items: readonly Item[];
  readonly onComplete: { id: string; location: string } | null;
}
interface Problem {
  readonly code: string;
  readonly detail: string;
  readonly errors?: { pointer: string; detail: string }[];
}

const noops = (count: number) =>
  Array.from({ length: count }, (_, n) => ({ task: 'test.noop', input: { n } }));
const bad = { task: 'test.noop', input: { n: 'x' } };

function send(body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return client.post('/v1/jobs/batch', body, headers);
}

async function accept(body: unknown, headers?: Record<string, string>): Promise<Batch> {
  const response = await send(body, headers);
  expect(response.status).toBe(202);
  return (await response.json()) as Batch;
}

async function refuse(status: number, body: unknown): Promise<Problem> {
  const before = await counts();
  const response = await send(body);
  expect(response.status).toBe(status);
  expect(response.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(await counts()).toEqual(before);
  return (await response.json()) as Problem;
}

async function counts(): Promise<unknown> {
  const { rows } = await api.db.query(
    `SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM batches) AS batches, (SELECT count(*) FROM events) AS events,
       (SELECT count(*) FROM job_inputs) AS inputs, (SELECT count(*) FROM idempotency_keys) AS keys`,
  );
  return rows[0];
}

async function upload(): Promise<string> {
  const response = await client.request('POST', '/v1/files', {
    body: 'x',
    headers: { 'content-type': 'text/plain' },
  });
  return ((await response.json()) as { id: string }).id;
}

describe('202', () => {
  test('answers for every job in the order of the request, and each is a job like any other', async () => {
    const response = await send({
      jobs: [
        ...noops(2),
        { task: 'test.echo', input: { value: 'ä' }, options: { delayMs: 60_000, tags: ['t'] } },
      ],
    });
    expect(response.status).toBe(202);
    const batch = (await response.json()) as Batch;
    expect(response.headers.get('location')).toBe(`/v1/batches/${batch.id}`);
    expect(batch).toMatchObject({ accepted: 3, refused: 0, onComplete: null });
    expect(
      batch.items.map((item) => [item.index, item.state, item.location === `/v1/jobs/${item.id}`]),
    ).toEqual([
      [0, 'queued', true],
      [1, 'queued', true],
      [2, 'scheduled', true],
    ]);
    const jobs = await Promise.all(batch.items.map((item) => client.job(item.id ?? '')));
    expect(jobs.map((job) => [job['input'], job.state, job['batchId']])).toEqual([
      [{ n: 0 }, 'queued', batch.id],
      [{ n: 1 }, 'queued', batch.id],
      [{ value: 'ä' }, 'scheduled', batch.id],
    ]);
    const { rows } = await api.db.query(
      `SELECT e.type FROM events e JOIN jobs j ON j.id = e.job_id WHERE j.batch_id = $1 ORDER BY j.id`,
      [batch.id],
    );
    expect(rows.map((row) => row['type'])).toEqual(['job.queued', 'job.queued', 'job.scheduled']);
  });

  test('jobs of a batch run in its order, and are dispatched at once as far as the window has room', async () => {
    const { items } = await accept({ jobs: noops(300) });
    const ids = items.map((item) => item.id ?? '');
    expect(ids).toEqual(ids.toSorted());
    const { rows } = await api.db.query<{ id: string }>(
      `SELECT j.id FROM jobs j JOIN queues q ON q.name = j.queue WHERE j.id = ANY($1) ORDER BY j.rank_at, j.id`,
      [ids],
    );
    expect(rows.map((row) => row.id)).toEqual(ids);
    const other = await createTestApi();
    try {
      const response = await (await other.client()).post('/v1/jobs/batch', { jobs: noops(300) });
      expect(response.status).toBe(202);
      const { rows } = await other.db.query<{ dispatched: number; window_size: number }>(
        `SELECT count(j.dispatched_at) AS dispatched, q.window_size FROM jobs j JOIN queues q ON q.name = j.queue GROUP BY q.window_size`,
      );
      expect(rows).toEqual([{ dispatched: 16, window_size: 16 }]);
      await other.deps.dispatcher.idle();
    } finally {
      await other.dispose();
    }
  });

  test('permissive accepts the good ones and says what is wrong with the bad ones', async () => {
    const file = await upload();
    const missing = randomUUID();
    const batch = await accept({
      mode: 'permissive',
      jobs: [
        { task: 'test.noop' },
        bad,
        { task: 'test.nope' },
        { task: 'test.files', input: { files: [file, missing] } },
        { task: 'test.files', input: { file } },
        { task: 'test.noop', options: { attempts: 11, retries: 1 } },
        { task: 'test.echo', input: { value: 'a\0b' } },
        'no job',
      ],
    });
    expect(batch).toMatchObject({ accepted: 2, refused: 6 });
    expect(
      batch.items.map(
        (item) => item.id ?? [item.problem?.code, item.problem?.errors?.map((error) => error.pointer)],
      ),
    ).toEqual([
      expect.any(String),
      ['invalid-input', ['/jobs/1/input/n']],
      ['unknown-task', ['/jobs/2/task']],
      ['file-not-found', ['/jobs/3/input/files/1']],
      expect.any(String),
      ['invalid-input', ['/jobs/5/options/retries']],
      ['invalid-input', ['/jobs/6/input/value']],
      ['invalid-input', ['/jobs/7']],
    ]);
    const { rows } = await api.db.query('SELECT file_id FROM job_inputs WHERE job_id = $1', [
      batch.items[4]?.id,
    ]);
    expect(rows).toEqual([{ file_id: file }]);
  });

  test('each job may be as large as one that comes alone, and their keys are not counted together', async () => {
    const value = Array.from({ length: 40 }, () => 1);
    expect(
      await accept({ jobs: Array.from({ length: 200 }, () => ({ task: 'test.echo', input: { value } })) }),
    ).toMatchObject({ accepted: 200 });
  });
});

describe('202 with Idempotency-Key', () => {
  test('equal requests at the same moment make one batch and get one answer', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const { rows: before } = await api.db.query('SELECT count(*) AS jobs FROM jobs');
    const answers = await Promise.all(
      Array.from({ length: 10 }, async (_, index) => {
        const job = index % 2 === 0 ? { task: 'test.noop', input: {} } : { input: {}, task: 'test.noop' };
        const response = await send({ jobs: [job, job, job] }, headers);
        return {
          status: response.status,
          replayed: response.headers.get('idempotency-replayed'),
          text: await response.text(),
        };
      }),
    );
    expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
    expect(answers.filter(({ replayed }) => replayed === null)).toHaveLength(1);
    const { rows: after } = await api.db.query('SELECT count(*) AS jobs FROM jobs');
    expect(after[0]?.['jobs']).toBe(Number(before[0]?.['jobs']) + 3);
  });

  test('a repetition gets the first answer, with what was refused, also when files and jobs are gone', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const file = await upload();
    const body = {
      mode: 'permissive',
      jobs: [
        { task: 'test.files', input: { file }, options: { delayMs: 60_000 } },
        bad,
        { task: 'test.noop', options: { runAt: '2020-01-01T00:00:00Z' } },
      ],
      onComplete: { task: 'test.noop' },
    };
    const first = await accept(body, headers);
    await client.post(`/v1/jobs/${first.items[0]?.id}/cancel`);
    expect((await client.request('DELETE', `/v1/files/${file}`)).status).toBe(204);
    expect(await accept(body, headers)).toEqual(first);
    expect(first.items.map((item) => item.state)).toEqual(['scheduled', undefined, 'queued']);
  });

  test('422 for another batch, and for a job, under the same key', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    await accept({ jobs: noops(2) }, headers);
    for (const body of [
      { jobs: noops(3) },
      { jobs: noops(2), mode: 'permissive' },
      { jobs: noops(2), onComplete: { task: 'test.noop' } },
      { jobs: [...noops(1), bad] },
    ]) {
      const response = await send(body, headers);
      expect(response.status).toBe(422);
      expect(await response.json()).toMatchObject({ code: 'idempotency-mismatch' });
    }
    const response = await client.post('/v1/jobs', noops(1)[0], headers);
    expect(await response.json()).toMatchObject({ code: 'idempotency-mismatch' });
  });
});

describe('413', () => {
  test.each([
    ['too many jobs', { jobs: noops(301) }, '300 jobs (WINDLASS_BATCH_ITEMS_MAX)'],
    [
      'too many bytes',
      { jobs: Array.from({ length: 20 }, () => ({ task: 'x'.repeat(4_000) })) },
      'WINDLASS_BATCH_BYTES_MAX',
    ],
    [
      'a job of too many bytes',
      { jobs: [{ task: 'test.echo', input: { value: 'x'.repeat(4_096) } }] },
      'WINDLASS_JSON_BYTES_MAX',
    ],
    [
      'a job that is too deep',
      { jobs: [{ task: 'test.echo', input: { value: [[[[1]]]] } }] },
      'WINDLASS_JSON_DEPTH_MAX',
    ],
    [
      'a job with too many keys',
      { jobs: [{ task: 'test.echo', input: { value: Array.from({ length: 50 }, () => 1) } }] },
      'WINDLASS_JSON_KEYS_MAX',
    ],
  ])('%s: the answer says the limit', async (_what, body, limit) => {
    const problem = await refuse(413, body);
    expect(problem.code).toBe('content-too-large');
    expect(problem.detail).toContain(limit);
  });
});

describe('422: nothing is accepted', () => {
  test.each<[unknown, string]>([
    [{ jobs: [] }, '/jobs'],
    [{ job: noops(1) }, '/job'],
    [{ jobs: noops(1), mode: 'lenient' }, '/mode'],
    [[], ''],
    ['jobs', ''],
    [{ jobs: noops(1), onComplete: null }, '/onComplete'],
    [{ jobs: noops(1), onComplete: { task: 'test.noop', input: { m: 1 } } }, '/onComplete/input/m'],
    [
      { jobs: noops(1), onComplete: { task: 'test.noop', options: { delayMs: 1 } } },
      '/onComplete/options/delayMs',
    ],
    [
      { jobs: noops(1), onComplete: { task: 'test.noop', options: { uniqueKey: { key: 'k' } } } },
      '/onComplete/options/uniqueKey',
    ],
    [
      { jobs: noops(1), onComplete: { task: 'test.noop', options: { concurrencyKey: 'k' } } },
      '/onComplete/options/concurrencyKey',
    ],
    [
      { jobs: noops(1), onComplete: { task: 'test.noop', options: { dependsOn: [] } } },
      '/onComplete/options/dependsOn',
    ],
    [{ jobs: [{ task: 'test.noop', options: { uniqueKey: { key: 'k' } } }] }, '/jobs/0/options/uniqueKey'],
    [
      { jobs: [...noops(1), { task: 'test.noop', options: { dependsOn: [randomUUID()] } }] },
      '/jobs/1/options/dependsOn',
    ],
    [
      { jobs: noops(1), onComplete: { task: 'test.files', input: { file: randomUUID() } } },
      '/onComplete/input/file',
    ],
  ])('%j points at %s', async (body, pointer) => {
    const problem = await refuse(422, body);
    expect(problem.errors?.map((error) => error.pointer)).toContain(pointer);
  });

  test('strict names every job that is wrong, with its place, up to a limit', async () => {
    const mixed = await refuse(422, {
      jobs: [
        ...noops(3),
        bad,
        { task: 'image.resise' },
        { task: 'test.files', input: { file: randomUUID() } },
      ],
    });
    expect(mixed).toMatchObject({
      code: 'invalid-input',
      detail: expect.stringContaining('3 of 6 jobs') as unknown,
    });
    expect(mixed.errors?.map((error) => error.pointer)).toEqual([
      '/jobs/3/input/n',
      '/jobs/4/task',
      '/jobs/5/input/file',
    ]);
    const many = await refuse(422, { jobs: Array.from({ length: 150 }, () => bad) });
    expect(many.errors).toHaveLength(100);
    expect(many.detail).toContain('150 of 150');
  });

  test('the code is that of the jobs when they agree', async () => {
    expect(await refuse(422, { jobs: [{ task: 'a' }, ...noops(1), { task: 'b' }] })).toMatchObject({
      code: 'unknown-task',
    });
  });

  test('permissive refuses a batch in which no job is right', async () => {
    expect(await refuse(422, { mode: 'permissive', jobs: [bad, bad] })).toMatchObject({
      code: 'invalid-input',
    });
  });

  test('a file deleted between its check and the commit: strict accepts nothing, permissive the others', async () => {
    const strict = await withFileDeletedAtCommit((file) => ({
      jobs: [...noops(1), { task: 'test.files', input: { file } }],
    }));
    expect(strict.status).toBe(422);
    expect(await strict.json()).toMatchObject({
      code: 'file-not-found',
      errors: [{ pointer: '/jobs/1/input/file' }],
    });
    const permissive = await withFileDeletedAtCommit((file) => ({
      mode: 'permissive',
      jobs: [...noops(1), { task: 'test.files', input: { file } }],
    }));
    expect(permissive.status).toBe(202);
    expect(await permissive.json()).toMatchObject({
      accepted: 1,
      refused: 1,
      items: [{ state: 'queued' }, { problem: { code: 'file-not-found' } }],
    });
  });

  /** The deletion waits for its own commit until the batch waits for it. */
  async function withFileDeletedAtCommit(body: (file: string) => unknown): Promise<Response> {
    const file = await upload();
    const before = await counts();
    const other = await api.db.connect();
    try {
      await other.query('BEGIN');
      await other.query('DELETE FROM files WHERE id = $1', [file]);
      const sent = send(body(file));
      await waitFor(
        async () => {
          const { rowCount } = await api.db.query(
            `SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
          );
          return rowCount === 1 ? true : undefined;
        },
        { what: 'the batch to wait for the deletion' },
      );
      await other.query('COMMIT');
      const response = await sent;
      if (response.status !== 202) expect(await counts()).toEqual(before);
      return response;
    } finally {
      other.release();
    }
  }
});

describe('429', () => {
  test('a batch takes as many of the quota of waiting jobs as it has, with what starts at its end', async () => {
    const deps: { quotas: TenantQuotas } = api.deps;
    const before = deps.quotas;
    const limits = {
      WINDLASS_WAITING_PER_TENANT_MAX: (await countWaitingOfTenant(api.db, 'default', 100_000)) + 5,
      WINDLASS_BYTES_PER_TENANT_MAX: 0,
    };
    deps.quotas = createTenantQuotas({ db: api.db, limits });
    try {
      expect(await refuse(429, { jobs: noops(5), onComplete: { task: 'test.noop' } })).toMatchObject({
        code: 'too-many-waiting',
      });
      expect((await send({ jobs: noops(5) })).status).toBe(202);
    } finally {
      deps.quotas = before;
    }
  });

  test('every job of a batch counts', async () => {
    const deps: { rateLimiter: RateLimiter } = api.deps;
    const before = deps.rateLimiter;
    deps.rateLimiter = createRateLimiter(10);
    try {
      const first = await send({ jobs: noops(8) });
      expect([first.status, first.headers.get('ratelimit')]).toEqual([202, '"default";r=2;t=0']);
      const second = await send({ jobs: noops(8) });
      expect(second.status).toBe(429);
      expect(Number(second.headers.get('retry-after'))).toBeGreaterThan(0);
      deps.rateLimiter = createRateLimiter(10);
      expect(await refuse(413, { jobs: noops(12) })).toMatchObject({ code: 'content-too-large' });
    } finally {
      deps.rateLimiter = before;
    }
  });
});

describe('503', () => {
  test('a full backlog refuses a batch', async () => {
    await insertJob(api.db);
    const backlog = createBacklog({ db: api.db, max: 1 });
    const deps: { backlog: Backlog } = api.deps;
    const before = deps.backlog;
    deps.backlog = backlog;
    try {
      const response = await waitFor(
        async () => {
          const answer = await send({ jobs: noops(1) });
          return answer.status === 202 ? undefined : answer;
        },
        { what: 'the backlog to be counted' },
      );
      expect(response.status).toBe(503);
      expect(await response.json()).toMatchObject({ code: 'backlog-full' });
    } finally {
      backlog.stop();
      deps.backlog = before;
    }
  });
});
