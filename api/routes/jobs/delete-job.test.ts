import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

const remove = (id: string) => client.request('DELETE', `/v1/jobs/${id}`);

const jsonBody = (value: unknown) => ({
  body: JSON.stringify(value),
  headers: { 'content-type': 'application/json' },
});

/** A job that succeeded with one file, whose bytes are stored. */
async function insertJobWithFile(): Promise<{ id: string; file: string }> {
  const headers = { 'content-type': 'text/plain' };
  const upload = await client.request('POST', '/v1/files', { body: 'x', headers });
  const { id: file } = (await upload.json()) as { id: string };
  const id = await insertJob(api.db, { state: 'succeeded' });
  await api.db.query('UPDATE files SET job_id = $2 WHERE id = $1', [file, id]);
  await api.db.query(
    `INSERT INTO attempts (job_id, tenant_id, fence, worker_id, started_at, finished_at, outcome)
     VALUES ($1, 'default', 1, gen_random_uuid(), now(), now(), 'succeeded')`,
    [id],
  );
  await api.db.query(`INSERT INTO events (tenant_id, job_id, type) VALUES ('default', $1, 'job.succeeded')`, [
    id,
  ]);
  return { id, file };
}

async function storedIds(): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of api.deps.storage.list()) ids.push(id);
  return ids;
}

describe('204', () => {
  test.each(['succeeded', 'failed', 'cancelled'] as const)('a job that has %s is gone', async (state) => {
    const id = await insertJob(api.db, { state });
    expect((await remove(id)).status).toBe(204);
    expect((await client.get(`/v1/jobs/${id}`)).status).toBe(404);
    expect((await remove(id)).status).toBe(404);
  });

  test('with its files, their bytes, its story and its events', async () => {
    const { id, file } = await insertJobWithFile();
    expect((await remove(id)).status).toBe(204);
    expect((await client.get(`/v1/files/${file}`)).status).toBe(404);
    expect(await storedIds()).not.toContain(file);
    for (const table of ['attempts', 'events', 'files'])
      expect((await api.db.query(`SELECT 1 FROM ${table} WHERE job_id = $1`, [id])).rowCount).toBe(0);
  });
});

describe('409', () => {
  test.each(['scheduled', 'blocked', 'queued', 'active', 'retrying'] as const)(
    'a job that is %s stays',
    async (state) => {
      const id = await insertJob(api.db, { state });
      const response = await remove(id);
      expect(response.status).toBe(409);
      expect(await response.json()).toMatchObject({ code: 'job-not-final' });
      expect(await client.job(id)).toMatchObject({ state });
    },
  );

  test('a job stays while another one that has not ended needs a file of it', async () => {
    const { id, file } = await insertJobWithFile();
    const reader = await client.submit('test.files', { file }, { delayMs: 3_600_000 });
    const response = await remove(id);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({ code: 'file-in-use' });
    expect(await storedIds()).toContain(file);
    await client.post(`/v1/jobs/${reader}/cancel`);
    expect((await remove(id)).status).toBe(204);
  });

  test('a job stays while a schedule needs a file of it', async () => {
    const { id, file } = await insertJobWithFile();
    const schedule = { task: 'test.files', input: { file }, everyMs: 3_600_000 };
    expect((await client.request('PUT', '/v1/schedules/reader', jsonBody(schedule))).status).toBe(201);
    const response = await remove(id);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({ code: 'file-in-use' });
    expect((await client.request('DELETE', '/v1/schedules/reader')).status).toBe(204);
    expect((await remove(id)).status).toBe(204);
  });
});

test('409: a job stays while a schedule needs a file of it', async () => {
  const { id, file } = await insertJobWithFile();
  const schedule = { task: 'test.files', input: { file }, everyMs: 3_600_000 };
  const put = await client.request('PUT', '/v1/schedules/reader', {
    body: JSON.stringify(schedule),
    headers: { 'content-type': 'application/json' },
  });
  expect(put.status).toBe(201);
  const response = await remove(id);
  expect(response.status).toBe(409);
  expect(await response.json()).toMatchObject({
    code: 'file-in-use',
    detail: expect.stringContaining('schedule') as unknown,
  });
  expect(await storedIds()).toContain(file);
  await client.request('DELETE', '/v1/schedules/reader');
  expect((await remove(id)).status).toBe(204);
});

test.each([randomUUID(), '7'])('404: %s', async (id) => {
  expect((await remove(id)).status).toBe(404);
});
