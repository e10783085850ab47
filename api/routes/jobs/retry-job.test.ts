import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deleteJob } from '#shared/db/delete-job.ts';
import { retryJob } from '#shared/db/retry-job.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { waitFor } from '#test/support/wait-for.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

const error = { code: 'task-failed', message: 'no luck', retryable: true };

async function upload(): Promise<string> {
  const headers = { 'content-type': 'text/plain' };
  const response = await client.request('POST', '/v1/files', { body: 'x', headers });
  return ((await response.json()) as { id: string }).id;
}

test('202: a failed job is queued again with all its attempts; its story, its id and its input stay', async () => {
  const id = await insertJob(api.db, { state: 'failed', error, input: { value: 1 }, startedAt: new Date() });
  await api.db.query(
    `UPDATE jobs SET attempts_used = 3, crashes = 2, fence = 6, expires_at = now() + interval '1 day' WHERE id = $1`,
    [id],
  );
  await api.db.query(
    `INSERT INTO attempts (job_id, tenant_id, fence, worker_id, started_at, finished_at, outcome)
     VALUES ($1, 'default', 6, gen_random_uuid(), now(), now(), 'failed')`,
    [id],
  );
  const response = await client.post(`/v1/jobs/${id}/retry`);
  expect(response.status).toBe(202);
  expect(await response.json()).toMatchObject({ id, state: 'queued', error: null, expiresAt: null });
  expect(await client.job(id)).toMatchObject({
    state: 'queued',
    input: { value: 1 },
    attempts: [{ number: 1, outcome: 'failed' }],
    finishedAt: null,
  });
  const { rows } = await api.db.query('SELECT attempts_used, crashes, fence FROM jobs WHERE id = $1', [id]);
  expect(rows).toEqual([{ attempts_used: 0, crashes: 0, fence: 7 }]);
});

test('its files are held again until it has ended', async () => {
  const file = await upload();
  const id = await insertJob(api.db, { state: 'failed', task: 'test.files', input: { file } });
  expect((await client.post(`/v1/jobs/${id}/retry`)).status).toBe(202);
  expect((await client.request('DELETE', `/v1/files/${file}`)).status).toBe(409);
});

describe('409', () => {
  test.each(['scheduled', 'queued', 'active', 'retrying', 'succeeded', 'cancelled'] as const)(
    'a job that is %s stays as it is',
    async (state) => {
      const id = await insertJob(api.db, { state });
      const response = await client.post(`/v1/jobs/${id}/retry`);
      expect(response.status).toBe(409);
      expect(await response.json()).toMatchObject({
        code: 'job-not-failed',
        detail: expect.stringContaining(state) as unknown,
      });
      expect(await client.job(id)).toMatchObject({ state });
    },
  );

  test('a file of the input is gone: the answer says what to do, and the job stays failed', async () => {
    const [file, gone] = [await upload(), await upload()];
    const id = await insertJob(api.db, {
      state: 'failed',
      task: 'test.files',
      input: { file, files: [gone] },
    });
    expect((await client.request('DELETE', `/v1/files/${gone}`)).status).toBe(204);
    const response = await client.post(`/v1/jobs/${id}/retry`);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({
      code: 'input-missing',
      detail: expect.stringContaining('replay') as unknown,
    });
    expect(await client.job(id)).toMatchObject({ state: 'failed' });
    expect((await client.request('DELETE', `/v1/files/${file}`)).status).toBe(204);
  });
});

test('410: the input was deleted at the end of its retention', async () => {
  const id = await insertJob(api.db, { state: 'failed' });
  await api.db.query(`UPDATE jobs SET purged_at = now(), input = '{}' WHERE id = $1`, [id]);
  const response = await client.post(`/v1/jobs/${id}/retry`);
  expect(response.status).toBe(410);
  expect(await response.json()).toMatchObject({ code: 'input-expired' });
});

test.each([randomUUID(), '7'])('404: %s', async (id) => {
  expect((await client.post(`/v1/jobs/${id}/retry`)).status).toBe(404);
});

test.each([
  { first: 'retry', answers: ['queued', 'not-final'] },
  { first: 'delete', answers: ['deleted', 'missing'] },
] as const)(
  'a retry and a delete wait for each other: when the $first is first, the other one sees what it did',
  async ({ first, answers }) => {
    const id = await insertJob(api.db, { state: 'failed', error });
    const retry = () => retryJob(api.db, { tenantId: 'default', id, inputFiles: [] });
    const remove = () => deleteJob(api.db, 'default', id);
    const holder = await api.db.connect();
    try {
      await holder.query('BEGIN');
      await holder.query('SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE', [id]);
      const given = [];
      for (const begin of first === 'retry' ? [retry, remove] : [remove, retry]) {
        given.push(begin());
        await waitFor(async () => ((await countWaitingForLock()) === given.length ? true : undefined), {
          what: 'it to wait',
        });
      }
      await holder.query('COMMIT');
      expect((await Promise.all(given)).map((answer) => answer.type)).toEqual(answers);
    } finally {
      holder.release();
    }
  },
);

async function countWaitingForLock(): Promise<number> {
  const { rows } = await api.db.query<{ count: number }>(
    `SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
  );
  return rows[0]?.count ?? 0;
}

test('of retries and deletes at the same moment exactly one happens, and every answer is true', async () => {
  const ids = await Promise.all(
    Array.from({ length: 40 }, () => insertJob(api.db, { state: 'failed', error })),
  );
  const rounds = await Promise.all(
    ids.map((id, index) => {
      const retries = [1, 2].map(() => retryJob(api.db, { tenantId: 'default', id, inputFiles: [] }));
      const removal = deleteJob(api.db, 'default', id);
      return Promise.all(index % 2 === 0 ? [...retries, removal] : [removal, ...retries]);
    }),
  );
  for (const [index, answers] of rounds.entries()) {
    const { rows } = await api.db.query<{ state: string; fence: number }>(
      'SELECT state, fence FROM jobs WHERE id = $1',
      [ids[index]],
    );
    const types = answers.map((answer) => answer.type).toSorted();
    if (types.includes('deleted')) {
      expect([types, rows]).toEqual([['deleted', 'missing', 'missing'], []]);
    } else {
      expect([types, rows]).toEqual([['not-failed', 'not-final', 'queued'], [{ state: 'queued', fence: 1 }]]);
    }
  }
});
