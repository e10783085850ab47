import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { batchSchema } from '#api/present-batch.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

async function makeBatch(body: object): Promise<{ id: string; ids: string[] }> {
  const response = await client.post('/v1/jobs/batch', body);
  expect(response.status).toBe(202);
  const { id, items } = (await response.json()) as { id: string; items: { id: string }[] };
  return { id, ids: items.map((item) => item.id) };
}

const noops = (count: number) => Array.from({ length: count }, () => ({ task: 'test.noop' }));

describe('200', () => {
  test('jobs by state, progress, and whether all have ended', async () => {
    const { id, ids } = await makeBatch({
      jobs: [...noops(2), { task: 'test.noop', options: { delayMs: 60_000 } }],
    });
    const get = async () => {
      const response = await client.get(`/v1/batches/${id}`);
      expect(response.status).toBe(200);
      return {
        retryAfter: response.headers.get('retry-after'),
        batch: batchSchema.strict().parse(await response.json()),
      };
    };
    await client.post(`/v1/jobs/${ids[0]}/cancel`);
    expect(await get()).toMatchObject({
      retryAfter: '1',
      batch: {
        id,
        total: 3,
        counts: { queued: 1, scheduled: 1, cancelled: 1, succeeded: 0 },
        progress: { percent: 33.3 },
        isFinal: false,
        onCompleteJobId: null,
        links: { self: `/v1/batches/${id}` },
      },
    });
    for (const job of ids) await client.post(`/v1/jobs/${job}/cancel`);
    expect(await get()).toMatchObject({
      retryAfter: null,
      batch: { progress: { percent: 100 }, isFinal: true },
    });
    await api.db.query('DELETE FROM jobs WHERE id = $1', [ids[0]]);
    expect(await get()).toMatchObject({ batch: { total: 3, counts: { cancelled: 2 }, isFinal: true } });
  });

  test('its jobs are found by batch:, with any other terms, page by page', async () => {
    const [first, second] = [await makeBatch({ jobs: noops(5) }), await makeBatch({ jobs: noops(3) })];
    await client.post(`/v1/jobs/${first.ids[2]}/cancel`);
    const search = async (q: string) => {
      const found: string[] = [];
      let cursor: string | null = null;
      do {
        const page: string = cursor === null ? '' : `&cursor=${cursor}`;
        const response = await client.get(`/v1/jobs?limit=2&q=${encodeURIComponent(q)}${page}`);
        expect(response.status).toBe(200);
        const answer = (await response.json()) as { data: { id: string }[]; nextCursor: string | null };
        found.push(...answer.data.map((job) => job.id));
        cursor = answer.nextCursor;
      } while (cursor !== null);
      return found;
    };
    expect(await search(`batch:${first.id}`)).toEqual(first.ids.toReversed());
    expect(await search(`batch:${first.id},${second.id.toUpperCase()}`)).toEqual(
      [...first.ids, ...second.ids].toReversed(),
    );
    expect(await search(`batch:${first.id} -state:cancelled`)).toEqual(
      first.ids.toReversed().filter((id) => id !== first.ids[2]),
    );
    expect(await search(`-batch:${first.id} batch:${first.id}`)).toEqual([]);
    expect(await search(`batch:${second.id} -batch:${first.id} "{"`)).toEqual(second.ids.toReversed());
    const refused = await client.get('/v1/jobs?q=batch:7');
    expect(refused.status).toBe(400);
  });
});

describe('404', () => {
  test.each([randomUUID(), '7'])('%s', async (id) => {
    expect((await client.get(`/v1/batches/${id}`)).status).toBe(404);
  });
});
