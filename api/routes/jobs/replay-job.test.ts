import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jobStates } from '#shared/domain/job.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';
import type { TestJob } from '#test/support/service.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

async function replay(id: string, body?: unknown, key?: string) {
  const response = await client.post(
    `/v1/jobs/${id}/replay`,
    body,
    key === undefined ? undefined : { 'idempotency-key': key },
  );
  return { response, status: response.status, job: (await response.json()) as TestJob };
}

const purge = (id: string) =>
  api.db.query(`UPDATE jobs SET purged_at = now(), input = '{}' WHERE id = $1`, [id]);

describe('202', () => {
  test.each(jobStates)('a job that is %s becomes a new one, and stays as it is', async (state) => {
    const id = await insertJob(api.db, { state, input: { value: 'same' }, tags: ['a'] });
    const { status, job, response } = await replay(id);
    expect(status).toBe(202);
    expect(response.headers.get('location')).toBe(`/v1/jobs/${job.id}`);
    expect(job.id).not.toBe(id);
    const expected = { state: 'queued', input: { value: 'same' }, tags: ['a'], replayOf: id, attempts: [] };
    expect(job).toMatchObject(expected);
    expect(await client.job(job.id)).toMatchObject(expected);
    expect(await client.job(id)).toMatchObject({ state, replayOf: null });
  });

  test('options are those of the job, but for its start, and what is given replaces them', async () => {
    const options = {
      priority: 3,
      attempts: 2,
      timeoutMs: 5_000,
      tags: ['x'],
      startWithinMs: 60_000,
      delayMs: 3_600_000,
      backoff: { type: 'fixed', delayMs: 1, maxMs: 1 },
      retentionMs: 5_000,
    };
    const id = await client.submit('test.echo', { value: 1 }, options);
    const { job } = await replay(id, { options: { priority: 4, tags: [] } });
    expect(job).toMatchObject({ state: 'queued', priority: 4, tags: [], attemptsMax: 2 });
    const { rows } = await api.db.query('SELECT options, retention_ms FROM jobs WHERE id = $1', [job.id]);
    expect(rows).toEqual([
      {
        options: { timeoutMs: 5_000, startWithinMs: 60_000, backoff: options.backoff, replayOf: id },
        retention_ms: 5_000,
      },
    ]);
  });

  test('an input that is given replaces that of the job, and holds its files', async () => {
    const id = await insertJob(api.db, { state: 'failed', input: { value: 1 } });
    expect((await replay(id, { input: { value: 2 } })).job).toMatchObject({ input: { value: 2 } });
  });
});

describe('422', () => {
  test('everything is checked again, with pointers into the body', async () => {
    const id = await insertJob(api.db, { task: 'test.files', state: 'failed', input: {} });
    const bad = await replay(id, { input: { file: randomUUID() }, options: {} });
    expect([bad.status, bad.job['code'], bad.job['errors']]).toMatchObject([
      422,
      'file-not-found',
      [{ pointer: '/input/file' }],
    ]);
    expect((await replay(id, { options: { attempts: 1_000 } })).job).toMatchObject({
      code: 'invalid-input',
      errors: [{ pointer: '/options/attempts' }],
    });
    expect((await replay(id, { inputs: {} })).status).toBe(422);
    expect((await replay(id, { options: { replayOf: randomUUID() } })).status).toBe(422);
  });
});

describe('Idempotency-Key', () => {
  test('the same request is one job, also at the same moment and after the old job is gone; another one is refused', async () => {
    const id = await insertJob(api.db, { state: 'failed', input: { value: 1 } });
    const key = randomUUID();
    const answers = await Promise.all([1, 2, 3].map(() => replay(id, undefined, key)));
    expect(new Set(answers.map(({ job }) => job.id)).size).toBe(1);
    const replayed = answers.map(({ response }) => response.headers.get('idempotency-replayed'));
    expect(replayed.filter((header) => header === 'true')).toHaveLength(2);
    await purge(id);
    const again = await replay(id, undefined, key);
    expect([again.status, again.job]).toEqual([202, answers[0]?.job]);
    expect((await client.request('DELETE', `/v1/jobs/${id}`)).status).toBe(204);
    expect((await replay(id, undefined, key)).job.id).toBe(again.job.id);
    expect((await replay(id, { input: {} }, key)).job).toMatchObject({ code: 'idempotency-mismatch' });
  });

  test('a key of POST /v1/jobs is another request', async () => {
    const key = randomUUID();
    const created = await client.post(
      '/v1/jobs',
      { task: 'test.echo', input: { value: 1 } },
      { 'idempotency-key': key },
    );
    const { id } = (await created.json()) as { id: string };
    expect((await replay(id, undefined, key)).job).toMatchObject({ code: 'idempotency-mismatch' });
  });
});

test('410: the input was deleted at the end of its retention', async () => {
  const id = await insertJob(api.db, { state: 'succeeded' });
  await purge(id);
  expect(await replay(id)).toMatchObject({ status: 410, job: { code: 'input-expired' } });
});

test.each([randomUUID(), '7'])('404: %s', async (id) => {
  expect((await replay(id)).status).toBe(404);
});
