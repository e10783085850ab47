import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jobSchema } from '#api/present-job.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

describe('200', () => {
  test('tells the story of a job: its attempts in order, and the one that runs', async () => {
    const startedAt = new Date('2026-01-31T12:00:10Z');
    const id = await insertJob(api.db, {
      state: 'active',
      createdAt: new Date('2026-01-31T12:00:00Z'),
      startedAt,
    });
    const worker = randomUUID();
    const error = { code: 'task-failed', message: 'no', retryable: true };
    for (const [fence, outcome, cause] of [
      [5, 'crashed', error],
      [2, 'failed', error],
    ] as const) {
      await api.db.query(
        `INSERT INTO attempts (job_id, tenant_id, fence, worker_id, started_at, finished_at, outcome, error)
         VALUES ($1, 'default', $2, $3, '2026-01-31T12:00:01Z', '2026-01-31T12:00:02Z', $4, $5)`,
        [id, fence, worker, outcome, JSON.stringify(cause)],
      );
    }
    const response = await client.get(`/v1/jobs/${id}`);
    expect(response.status).toBe(200);
    expect(response.headers.get('retry-after')).toBe('1');
    const job = jobSchema.strict().parse(await response.json());
    const ended = {
      worker,
      startedAt: '2026-01-31T12:00:01.000Z',
      finishedAt: '2026-01-31T12:00:02.000Z',
      error,
    };
    expect(job).toMatchObject({
      state: 'active',
      createdAt: '2026-01-31T12:00:00.000Z',
      startedAt: '2026-01-31T12:00:10.000Z',
      finishedAt: null,
      attempts: [
        { number: 1, outcome: 'failed', ...ended },
        { number: 2, outcome: 'crashed', ...ended },
        {
          number: 3,
          outcome: 'running',
          startedAt: '2026-01-31T12:00:10.000Z',
          finishedAt: null,
          error: null,
        },
      ],
    });
  });

  test('a job that has ended needs no Retry-After', async () => {
    const response = await client.get(`/v1/jobs/${await insertJob(api.db, { state: 'cancelled' })}`);
    expect(response.headers.has('retry-after')).toBe(false);
  });

  test.each([
    ['the query', '?wait=60', {}],
    ['Prefer', '', { prefer: 'respond-async, wait=60' }],
  ])('waiting by %s ends when the job does', async (_way, query, headers: Record<string, string>) => {
    const id = await insertJob(api.db);
    const [response] = await Promise.all([
      client.get(`/v1/jobs/${id}${query}`, headers),
      client.post(`/v1/jobs/${id}/cancel`),
    ]);
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ state: 'cancelled' });
  });

  test('waiting for a job that does not end is answered when the time is over', async () => {
    const id = await insertJob(api.db);
    const response = await client.get(`/v1/jobs/${id}?wait=1`);
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ state: 'queued' });
  });
});

describe('304', () => {
  test('the ETag holds until the job changes', async () => {
    const id = await insertJob(api.db);
    const etag = (await client.get(`/v1/jobs/${id}`)).headers.get('etag') ?? '';
    expect(etag).toMatch(/^"[\w-]{22}"$/);
    const headers = { 'if-none-match': etag };
    const unchanged = await client.get(`/v1/jobs/${id}`, headers);
    expect(unchanged.status).toBe(304);
    expect(await unchanged.text()).toBe('');
    await client.post(`/v1/jobs/${id}/cancel`);
    const changed = await client.get(`/v1/jobs/${id}`, headers);
    expect(changed.status).toBe(200);
    expect(changed.headers.get('etag')).not.toBe(etag);
  });
});

describe('400', () => {
  test.each(['wait=-1', 'wait=301', 'wait=soon', 'waits=1'])('?%s', async (query) => {
    const response = await client.get(`/v1/jobs/${await insertJob(api.db)}?${query}`);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'bad-request' });
  });
});

describe('404', () => {
  test.each([randomUUID(), 'not-an-id', '%00', '..%2f..'])('%s', async (id) => {
    const response = await client.get(`/v1/jobs/${id}`);
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({ code: 'not-found' });
  });
});
