import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestApi, type TestApi } from '#test/support/api.ts';

let api: TestApi;

beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.dispose());

const post = (options: unknown, n = 1, headers: Readonly<Record<string, string>> = {}) =>
  api.admin.post('/v1/jobs', { task: 'test.echo', input: { value: n }, options }, headers);

describe('POST /v1/jobs 200', () => {
  test('answers the job that has the unique key, and says so', async () => {
    const options = { uniqueKey: { key: 'order-7' } };
    const first = await post(options);
    expect(first.status).toBe(202);
    const { id } = (await first.json()) as { id: string };
    const second = await post(options, 2);
    expect(second.status).toBe(200);
    expect(second.headers.get('windlass-duplicate')).toBe('true');
    expect(second.headers.get('location')).toBe(`/v1/jobs/${id}`);
    expect(await second.json()).toMatchObject({
      id,
      state: 'queued',
      input: { value: 1 },
      duplicate: true,
    });
  });

  test('a repetition under the same Idempotency-Key gets the same answer', async () => {
    const options = { uniqueKey: { key: 'order-8' } };
    const { id } = (await (await post(options)).json()) as { id: string };
    const key = { 'idempotency-key': 'loser' };
    expect((await post(options, 2, key)).status).toBe(200);
    await api.admin.post(`/v1/jobs/${id}/cancel`);
    const again = await post(options, 2, key);
    expect(again.status).toBe(200);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(await again.json()).toMatchObject({ id, duplicate: true, state: 'cancelled' });
  });

  test('404, and not an answer to try again, when the job that a repetition was answered with has been deleted', async () => {
    const options = { uniqueKey: { key: 'order-9' } };
    const { id } = (await (await post(options)).json()) as { id: string };
    const key = { 'idempotency-key': 'loser-of-a-deleted-job' };
    expect((await post(options, 2, key)).status).toBe(200);
    await api.admin.post(`/v1/jobs/${id}/cancel`);
    expect((await api.admin.request('DELETE', `/v1/jobs/${id}`)).status).toBe(204);
    const again = await post(options, 2, key);
    expect(again.status).toBe(404);
    expect(await again.json()).toMatchObject({ code: 'not-found' });
  });

  test('a request beside the deletion of the job that has its key is answered with that job or makes one', async () => {
    const options = { uniqueKey: { key: 'deleted-meanwhile', ttlMs: 3_600_000 } };
    const statuses = new Set<number>();
    for (let round = 0; round < 20; round += 1) {
      const { id } = (await (await post(options)).json()) as { id: string };
      await api.admin.post(`/v1/jobs/${id}/cancel`);
      const answers = await Promise.all([
        ...Array.from({ length: 5 }, (_, n) => post(options, n)),
        api.admin.request('DELETE', `/v1/jobs/${id}`),
        ...Array.from({ length: 10 }, (_, n) => post(options, n)),
      ]);
      for (const answer of answers) statuses.add(answer.status);
      const { rows } = await api.db.query<{ id: string }>('SELECT job_id AS id FROM unique_keys');
      await Promise.all(rows.map((row) => api.admin.post(`/v1/jobs/${row.id}/cancel`)));
      await Promise.all(rows.map((row) => api.admin.request('DELETE', `/v1/jobs/${row.id}`)));
    }
    expect([...statuses].toSorted((a, b) => a - b)).toEqual([200, 202, 204]);
  });

  test('debounce gives the waiting job the new input', async () => {
    const options = { uniqueKey: { key: 'document-1', mode: 'debounce', delayMs: 60_000 } };
    const first = (await (await post(options)).json()) as { id: string; state: string; runAt: string };
    expect(first.state).toBe('scheduled');
    const second = (await (await post(options, 2)).json()) as { id: string; input: unknown; runAt: string };
    expect(second).toMatchObject({ id: first.id, input: { value: 2 } });
    expect(second.runAt > first.runAt).toBe(true);
  });

  test('no bytes are left of files that came with a request that made no job', async () => {
    const send = () => {
      const form = new FormData();
      form.set('task', 'test.files');
      form.set('options', JSON.stringify({ uniqueKey: { key: 'upload' } }));
      form.set('file', new Blob(['bytes']), 'a.txt');
      return api.admin.request('POST', '/v1/jobs', { body: form });
    };
    expect((await send()).status).toBe(202);
    const stored = await listStored();
    expect((await send()).status).toBe(200);
    expect(await listStored()).toEqual(stored);
  });
});

async function listStored(): Promise<string[]> {
  const entries = await readdir(join(api.deps.config.WINDLASS_DATA_DIR, 'files'), {
    recursive: true,
    withFileTypes: true,
  });
  return entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
}

describe('POST /v1/jobs 422', () => {
  test.each([
    [{ uniqueKey: { key: '' } }, '/options/uniqueKey/key'],
    [{ uniqueKey: { key: 'a\nb' } }, '/options/uniqueKey/key'],
    [{ uniqueKey: { key: 'k', delayMs: 5 } }, '/options/uniqueKey/delayMs'],
    [{ uniqueKey: { key: 'k', mode: 'debounce' } }, '/options/uniqueKey/delayMs'],
    [{ uniqueKey: { key: 'k', mode: 'debounce', delayMs: 5, ttlMs: 5 } }, '/options/uniqueKey/ttlMs'],
    [{ delayMs: 5, uniqueKey: { key: 'k', mode: 'debounce', delayMs: 5 } }, '/options/uniqueKey/mode'],
    [{ concurrencyKey: '' }, '/options/concurrencyKey'],
  ])('%j is refused at %s', async (options, pointer) => {
    const response = await post(options);
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ errors: [{ pointer }] });
  });
});

describe('POST /v1/jobs/{id}/retry 409', () => {
  test('while another job has the unique key; then it takes the key back', async () => {
    const options = { uniqueKey: { key: 'again' } };
    const { id } = (await (await post(options)).json()) as { id: string };
    await api.db.query(
      `UPDATE jobs SET state = 'failed', finished_at = now(), dispatched_at = NULL, fence = fence + 1 WHERE id = $1`,
      [id],
    );
    const other = (await (await post(options)).json()) as { id: string };
    const refused = await api.admin.post(`/v1/jobs/${id}/retry`);
    expect(refused.status).toBe(409);
    expect(await refused.json()).toMatchObject({
      code: 'unique-key-held',
      detail: expect.stringContaining(other.id) as unknown,
    });
    expect(await api.admin.job(id)).toMatchObject({ state: 'failed' });
    await api.admin.post(`/v1/jobs/${other.id}/cancel`);
    expect((await api.admin.post(`/v1/jobs/${id}/retry`)).status).toBe(202);
    const next = await post(options);
    expect(next.status).toBe(200);
    expect(await next.json()).toMatchObject({ id });
  });
});
