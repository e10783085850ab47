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

describe('202', () => {
  test.each(['scheduled', 'blocked', 'queued', 'retrying'] as const)(
    'a job that is %s ends at once',
    async (state) => {
      const id = await insertJob(api.db, { state });
      const response = await client.post(`/v1/jobs/${id}/cancel`, { reason: 'not needed' });
      expect(response.status).toBe(202);
      const expected = {
        id,
        state: 'cancelled',
        cancelRequested: true,
        cancelReason: 'not needed',
        finishedAt: expect.any(String) as unknown,
      };
      expect(await response.json()).toMatchObject(expected);
      expect(await client.job(id)).toMatchObject(expected);
    },
  );

  test('one that runs is asked to stop, and a second reason does not replace the first', async () => {
    const id = await insertJob(api.db, { state: 'active', startedAt: new Date() });
    await client.post(`/v1/jobs/${id}/cancel`, { reason: 'first' });
    const response = await client.post(`/v1/jobs/${id}/cancel`, { reason: 'second' });
    expect(response.status).toBe(202);
    expect(await response.json()).toMatchObject({
      state: 'active',
      cancelRequested: true,
      cancelReason: 'first',
    });
  });

  test('cancelling a cancelled job again is fine, and the body is optional', async () => {
    const id = await insertJob(api.db);
    for (const _ of [1, 2]) expect((await client.post(`/v1/jobs/${id}/cancel`)).status).toBe(202);
    expect(await client.job(id)).toMatchObject({ state: 'cancelled', cancelReason: null });
  });

  test('a cancelled job lets go of its files', async () => {
    const upload = await client.request('POST', '/v1/files', {
      body: 'x',
      headers: { 'content-type': 'text/plain' },
    });
    const { id: file } = (await upload.json()) as { id: string };
    const job = await client.submit('test.files', { file }, { delayMs: 3_600_000 });
    expect((await client.request('DELETE', `/v1/files/${file}`)).status).toBe(409);
    await client.post(`/v1/jobs/${job}/cancel`);
    expect((await client.request('DELETE', `/v1/files/${file}`)).status).toBe(204);
  });
});

describe('404', () => {
  test.each([randomUUID(), '7'])('%s', async (id) => {
    expect((await client.post(`/v1/jobs/${id}/cancel`)).status).toBe(404);
  });
});

describe('409', () => {
  test.each(['succeeded', 'failed'] as const)('a job that has %s stays as it is', async (state) => {
    const id = await insertJob(api.db, { state });
    const response = await client.post(`/v1/jobs/${id}/cancel`);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({
      code: 'job-final',
      detail: expect.stringContaining(state) as unknown,
    });
    expect(await client.job(id)).toMatchObject({ state, cancelRequested: false });
  });
});

describe('422', () => {
  test.each([[{ why: 'x' }], [{ reason: 'x'.repeat(1_001) }], [{ reason: 'a\0' }], [[]]])(
    '%j',
    async (body) => {
      const id = await insertJob(api.db);
      expect((await client.post(`/v1/jobs/${id}/cancel`, body)).status).toBe(422);
      expect(await client.job(id)).toMatchObject({ state: 'queued' });
    },
  );
});
