import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob, type InsertedJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

/** A job that succeeded with this result and this many output files. @returns its id and those of the files. */
async function insertSucceeded(result: unknown, fileCount = 0): Promise<{ id: string; files: string[] }> {
  const id = await insertJob(api.db, { state: 'succeeded' });
  await api.db.query('UPDATE jobs SET result = $2 WHERE id = $1', [id, JSON.stringify(result)]);
  const files: string[] = [];
  for (let index = 0; index < fileCount; index += 1) {
    const response = await client.request('POST', '/v1/files', {
      body: `output ${index}`,
      headers: { 'content-type': 'text/plain' },
    });
    files.push(((await response.json()) as { id: string }).id);
  }
  await api.db.query('UPDATE files SET job_id = $1 WHERE id = ANY($2)', [id, files]);
  return { id, files };
}

async function getResult(job: InsertedJob): Promise<Response> {
  return client.get(`/v1/jobs/${await insertJob(api.db, job)}/result`);
}

describe('200', () => {
  test.each([[{ rows: 3 }], [null], [[1, 2]], ['text'], [0]])('the result itself: %j', async (result) => {
    const response = await client.get(`/v1/jobs/${(await insertSucceeded(result)).id}/result`);
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual(result);
  });

  test('several files: the result, which names them', async () => {
    const { id, files } = await insertSucceeded({ pages: 2 }, 2);
    const response = await client.get(`/v1/jobs/${id}/result`);
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({ pages: 2 });
    expect((await client.job(id)).files.map((file) => file.id)).toEqual(files);
  });
});

describe('303', () => {
  test('exactly one file: its bytes', async () => {
    const { id, files } = await insertSucceeded({ width: 1 }, 1);
    const response = await client.get(`/v1/jobs/${id}/result`);
    expect(response.status).toBe(303);
    expect(response.headers.get('location')).toBe(`/v1/files/${files[0]}/content`);
    expect(await response.json()).toEqual({ width: 1 });
    expect(await (await client.get(response.headers.get('location') ?? '')).text()).toBe('output 0');
  });
});

describe('202', () => {
  test.each(['queued', 'active', 'retrying', 'scheduled', 'blocked'] as const)(
    '%s: ask again later',
    async (state) => {
      const response = await getResult({ state, startedAt: new Date() });
      expect(response.status).toBe(202);
      expect(response.headers.get('retry-after')).toBe('1');
      expect(await response.json()).toMatchObject({ state, progress: { percent: 0, message: null } });
    },
  );
});

describe('409', () => {
  test('a failed job says why', async () => {
    const response = await getResult({
      state: 'failed',
      error: { code: 'task-input', message: 'not an image', retryable: false },
    });
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({ code: 'job-failed', detail: 'task-input: not an image' });
  });

  test('a cancelled job says why', async () => {
    const id = await insertJob(api.db);
    await client.post(`/v1/jobs/${id}/cancel`, { reason: 'not needed' });
    const response = await client.get(`/v1/jobs/${id}/result`);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({ code: 'job-cancelled', detail: 'not needed' });
  });
});

describe('410', () => {
  test('a result whose retention is over', async () => {
    const { id } = await insertSucceeded({});
    await api.db.query('UPDATE jobs SET purged_at = now(), result = NULL WHERE id = $1', [id]);
    const response = await client.get(`/v1/jobs/${id}/result`);
    expect(response.status).toBe(410);
    expect(await response.json()).toMatchObject({ code: 'result-expired' });
  });
});

describe('404', () => {
  test.each([randomUUID(), '7'])('%s', async (id) => {
    expect((await client.get(`/v1/jobs/${id}/result`)).status).toBe(404);
  });
});
