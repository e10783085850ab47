import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { appendLogs } from '#shared/db/job-logs.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client({ scopes: ['read'] });
});
afterAll(() => api.dispose());

/** A job whose first attempt (fence 1) ended and whose second (fence 3) is running, each with `lines` lines. */
async function insertJobWithLogs(lines: number): Promise<string> {
  const workerId = randomUUID();
  const jobId = await insertJob(api.db, { state: 'active', workerId });
  await api.db.query('UPDATE jobs SET fence = 3 WHERE id = $1', [jobId]);
  await api.db.query(
    `INSERT INTO attempts (job_id, tenant_id, fence, worker_id, started_at, finished_at, outcome) VALUES ($1, 'default', 1, $2, now(), now(), 'failed')`,
    [jobId, workerId],
  );
  for (const fence of [3, 1]) {
    const batch = Array.from({ length: lines }, (_, line) => ({
      line,
      at: new Date('2026-01-31T12:00:00Z'),
      message: `fence ${fence} line ${line}`,
    }));
    await appendLogs(api.db, { tenantId: 'default', jobId, fence, workerId }, batch);
  }
  return jobId;
}

interface Page {
  readonly data: { attempt: number; line: number; at: string; message: string }[];
  readonly nextCursor: string | null;
}

async function read(path: string): Promise<Page> {
  const response = await client.get(path);
  expect(response.status).toBe(200);
  return (await response.json()) as Page;
}

describe('200', () => {
  test('lines come oldest first, with the number of their attempt', async () => {
    const id = await insertJobWithLogs(1);
    expect(await read(`/v1/jobs/${id}/logs`)).toEqual({
      data: [
        { attempt: 1, line: 0, at: '2026-01-31T12:00:00.000Z', message: 'fence 1 line 0' },
        { attempt: 2, line: 0, at: '2026-01-31T12:00:00.000Z', message: 'fence 3 line 0' },
      ],
      nextCursor: null,
    });
  });

  test('a job that logged nothing has an empty page', async () => {
    expect(await read(`/v1/jobs/${await insertJob(api.db)}/logs`)).toEqual({ data: [], nextCursor: null });
  });

  test('pages follow each other without a gap, across attempts', async () => {
    const id = await insertJobWithLogs(3);
    const seen: string[] = [];
    let path = `/v1/jobs/${id}/logs?limit=2`;
    let pages = 0;
    for (;;) {
      const page = await read(path);
      seen.push(...page.data.map((line) => line.message));
      pages += 1;
      if (page.nextCursor === null) break;
      path = `/v1/jobs/${id}/logs?limit=2&cursor=${page.nextCursor}`;
    }
    expect(seen).toEqual([1, 3].flatMap((fence) => [0, 1, 2].map((line) => `fence ${fence} line ${line}`)));
    expect(pages).toBe(3);
  });
});

describe('400', () => {
  test('a cursor of another job is refused', async () => {
    const { nextCursor } = await read(`/v1/jobs/${await insertJobWithLogs(2)}/logs?limit=1`);
    const response = await client.get(`/v1/jobs/${await insertJobWithLogs(2)}/logs?cursor=${nextCursor}`);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'invalid-cursor' });
  });

  test.each(['limit=0', 'limit=1001', 'after=3'])('?%s is refused', async (query) => {
    const response = await client.get(`/v1/jobs/${await insertJob(api.db)}/logs?${query}`);
    expect(response.status).toBe(400);
  });
});

describe('404', () => {
  test('the log of an unknown job, of a malformed id, and of a job of another tenant', async () => {
    const stranger = await api.client({ tenantId: 'stranger', scopes: ['read'] });
    const id = await insertJobWithLogs(1);
    expect((await client.get(`/v1/jobs/${randomUUID()}/logs`)).status).toBe(404);
    expect((await client.get('/v1/jobs/7/logs')).status).toBe(404);
    expect((await stranger.get(`/v1/jobs/${id}/logs`)).status).toBe(404);
  });
});
