import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { feedQueues } from '#shared/db/feed-queues.ts';
import { registerWorker, renewLease } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());
beforeEach(async () => {
  await api.db.query('DELETE FROM jobs');
  await api.db.query('DELETE FROM workers');
});

let lastMs = 0;
async function addWorker(leaseMs = 60_000): Promise<string> {
  // Ids grow from call to call.
  lastMs = Math.max(Date.now(), lastMs + 1);
  const id = uuidv7(lastMs);
  await registerWorker(
    api.db,
    { id, host: 'box', pid: 7, version: '1.2.3', slots: { host: 2 }, isolation: 'process' },
    leaseMs,
  );
  return id;
}

async function runOn(workerId: string, tenantId?: string): Promise<string> {
  const id = await insertJob(api.db, { ...(tenantId !== undefined && { tenantId }), state: 'active' });
  await api.db.query('UPDATE jobs SET worker_id = $2 WHERE id = $1', [id, workerId]);
  return id;
}

interface Worker {
  readonly id: string;
  readonly state: string;
  readonly [key: string]: unknown;
}
interface Page {
  readonly data: Worker[];
  readonly nextCursor: string | null;
}

const list = async (query = '') => (await (await client.get(`/v1/workers${query}`)).json()) as Page;

test('GET /v1/workers says of each what it is, what it runs, and when it was last heard of; ids of jobs only of the own tenant', async () => {
  const [first, second] = [await addWorker(), await addWorker(-1)];
  await api.client({ tenantId: 'beta' });
  const own = await runOn(first);
  await runOn(first, 'beta');
  expect(await list()).toEqual({
    data: [
      {
        id: first,
        state: 'live',
        host: 'box',
        pid: 7,
        version: '1.2.3',
        isolation: 'process',
        slots: { host: 2 },
        busy: 2,
        jobs: [own],
        memoryBytes: 0,
        startedAt: expect.any(String) as unknown,
        lastHeartbeatAt: expect.any(String) as unknown,
        quietAt: null,
      },
      expect.objectContaining({ id: second, state: 'dead', busy: 0, jobs: [] }) as unknown,
    ],
    nextCursor: null,
  });
});

test('pages follow each other, in the order in which the workers were started', async () => {
  const ids = [await addWorker(), await addWorker(), await addWorker()];
  const first = await list('?limit=2');
  const second = await list(`?limit=2&cursor=${first.nextCursor}`);
  expect([...first.data, ...second.data].map((worker) => worker.id)).toEqual(ids);
  expect(second.nextCursor).toBeNull();
});

describe('POST /v1/workers/{id}/quiet and /unquiet', () => {
  test('a quiet worker hears of it with its next renewal, and its slots no longer count', async () => {
    const id = await addWorker();
    const renew = () => renewLease(api.db, { id, leaseMs: 60_000, drain: {}, memoryBytes: 1, runs: [] });
    const quiet = await client.post(`/v1/workers/${id}/quiet`);
    expect(quiet.status).toBe(200);
    expect(await quiet.json()).toMatchObject({ id, state: 'quiet', quietAt: expect.any(String) as unknown });
    expect(await renew()).toMatchObject({ isAlive: true, isQuiet: true });
    const { data } = (await (await client.get('/v1/queues')).json()) as { data: Worker[] };
    expect(data.find((queue) => queue['name'] === 'host')).toMatchObject({ slots: 0 });
    expect(await windowOf('host')).toBe(1);
    expect(await (await client.post(`/v1/workers/${id}/unquiet`)).json()).toMatchObject({
      state: 'live',
      quietAt: null,
    });
    expect(await renew()).toMatchObject({ isQuiet: false });
    expect(await windowOf('host')).toBe(2);
  });

  test('404 for a worker that is dead or was never there', async () => {
    for (const id of [await addWorker(-1), randomUUID(), '7'])
      for (const verb of ['quiet', 'unquiet'])
        expect((await client.post(`/v1/workers/${id}/${verb}`)).status).toBe(404);
  });
});

/** After a tick of the feeder, which measures it. */
async function windowOf(queue: string): Promise<number | undefined> {
  await feedQueues(api.db, [queue]);
  const { rows } = await api.db.query<{ window_size: number }>(
    'SELECT window_size FROM queues WHERE name = $1',
    [queue],
  );
  return rows[0]?.window_size;
}
