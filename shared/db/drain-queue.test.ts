import { afterEach, beforeEach, expect, test } from 'vitest';
import { insertJob } from '#test/support/insert-job.ts';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { jobStates } from '../domain/job.ts';
import { drainBatchMax, drainQueue } from './drain-queue.ts';
import { ensureQueues, feedQueues } from './feed-queues.ts';
import { createDb, type Db } from './pool.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 5, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q', 'other']);
  await db.query(`INSERT INTO tenants (id) VALUES ('a'), ('b')`);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const drain = (options: Partial<Parameters<typeof drainQueue>[1]> = {}) =>
  drainQueue(db, {
    queue: 'q',
    tenantId: 'a',
    reason: 'not needed',
    budgetMs: 60_000,
    onCancelled: () => {},
    ...options,
  });

async function countStates(tenantId: string): Promise<Record<string, number>> {
  const { rows } = await db.query<{ state: string; count: number }>(
    'SELECT state, count(*) AS count FROM jobs WHERE tenant_id = $1 GROUP BY state',
    [tenantId],
  );
  return Object.fromEntries(rows.map((row) => [row.state, row.count]));
}

test('a drain cancels what has not started, and nothing of another tenant, of another queue, or that runs', async () => {
  for (const state of jobStates) {
    await insertJob(db, { tenantId: 'a', queue: 'q', state });
    await insertJob(db, { tenantId: 'b', queue: 'q', state });
  }
  const dispatched = await insertJob(db, { tenantId: 'a', queue: 'q' });
  await db.query('UPDATE jobs SET dispatched_at = now() WHERE id = $1', [dispatched]);
  const elsewhere = await insertJob(db, { tenantId: 'a', queue: 'other' });
  const told: string[] = [];
  expect(await drain({ onCancelled: (ids) => told.push(...ids) })).toEqual({ cancelled: 5, isDone: true });
  expect(told).toHaveLength(5);
  expect(await countStates('a')).toEqual({ active: 1, succeeded: 1, failed: 1, cancelled: 6, queued: 1 });
  expect(await countStates('b')).toEqual(Object.fromEntries(jobStates.map((state) => [state, 1])));
  const { rows } = await db.query('SELECT fence, dispatched_at, cancel_reason FROM jobs WHERE id = $1', [
    dispatched,
  ]);
  expect(rows).toEqual([{ fence: 1, dispatched_at: null, cancel_reason: 'not needed' }]);
  expect((await db.query('SELECT state FROM jobs WHERE id = $1', [elsewhere])).rows).toEqual([
    { state: 'queued' },
  ]);
});

test('without a tenant it cancels the jobs of all', async () => {
  await insertJob(db, { tenantId: 'a', queue: 'q' });
  await insertJob(db, { tenantId: 'b', queue: 'q', state: 'scheduled' });
  expect(await drain({ tenantId: undefined })).toEqual({ cancelled: 2, isDone: true });
});

test('a long queue is drained in batches, and one whose time is up says that there is more', async () => {
  const count = 2 * drainBatchMax + 1;
  await db.query(
    `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
     SELECT gen_random_uuid(), 'a', 't', 'q', 'queued', now(), now(), '{}', 1, 1000 FROM generate_series(1, $1)`,
    [count],
  );
  expect(await drain({ budgetMs: -1 })).toEqual({ cancelled: 0, isDone: false });
  const batches: number[] = [];
  expect(await drain({ onCancelled: (ids) => batches.push(ids.length) })).toEqual({
    cancelled: count,
    isDone: true,
  });
  expect(batches).toEqual([drainBatchMax, drainBatchMax, 1]);
});

test('a drain while the queue is being fed, and another drain, cancel each job once', async () => {
  await db.query(
    `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
     SELECT gen_random_uuid(), 'a', 't', 'q', 'queued', now(), now() - n * interval '1 s', '{}', 1, 1000 FROM generate_series(1, 3000) AS n`,
  );
  await registerTestWorker(db, { q: 1_000 });
  let isDraining = true;
  const feeding = (async () => {
    while (isDraining) await feedQueues(db, ['q']);
  })();
  const results = await Promise.all([drain(), drain()]);
  isDraining = false;
  await feeding;
  expect(results.map((result) => result.cancelled).reduce((sum, count) => sum + count, 0)).toBe(3_000);
  expect(await countStates('a')).toEqual({ cancelled: 3_000 });
});
