import { afterEach, beforeEach, expect, test } from 'vitest';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { uuidv7 } from '../ids.ts';
import { createAcceptJobs } from './accept-jobs.ts';
import { createClaimJobs, type ClaimJobs } from './claim-jobs.ts';
import { ensureQueues, feedQueues } from './feed-queues.ts';
import { cancelJob } from './jobs.ts';
import { pauseQueue, resumeQueue } from './pause-queue.ts';
import { createDb, type Db } from './pool.ts';

let world: World;
let db: Db;
let claims: ClaimJobs;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 8, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q', 'other']);
  const workerId = uuidv7();
  await registerTestWorker(db, { q: 1_000 }, { id: workerId });
  claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

async function accept(fields: Parameters<typeof newJob>[0] = {}): Promise<string> {
  const job = newJob(fields);
  await createAcceptJobs(db).add(job);
  return job.id;
}

interface Row {
  readonly id: string;
  readonly state: string;
  readonly fence: number;
  readonly dispatched: boolean;
}

async function rowOf(id: string): Promise<Row | undefined> {
  const { rows } = await db.query<Row>(
    'SELECT id, state, fence, dispatched_at IS NOT NULL AS dispatched FROM jobs WHERE id = $1',
    [id],
  );
  return rows[0];
}

test('a delivery in flight at the pause finds nothing, and another queue is not touched', async () => {
  const [id, other] = [await accept(), await accept({ queue: 'other' })];
  expect(await rowOf(id)).toMatchObject({ dispatched: true, fence: 0 });
  expect(await pauseQueue(db, 'q', 'maintenance')).toBe(true);
  expect(await rowOf(id)).toEqual({ id, state: 'queued', dispatched: false, fence: 1 });
  expect(await claims.add({ jobId: id, fence: 0 })).toBeUndefined();
  // Not even one that was made up, or that repair added in the meantime.
  expect(await claims.add({ jobId: id, fence: 1 })).toBeUndefined();
  expect(await claims.add({ jobId: other, fence: 0 })).toMatchObject({ id: other });
});

test('a job that was accepted by a statement from before the pause, and marked as dispatched after it, waits for the resume', async () => {
  await pauseQueue(db, 'q', null);
  const id = await accept();
  // What such a statement leaves behind.
  await db.query('UPDATE jobs SET dispatched_at = now() WHERE id = $1', [id]);
  expect(await claims.add({ jobId: id, fence: 0 })).toBeUndefined();
  expect((await feedQueues(db, ['q'])).deliveries).toEqual([]);
  await resumeQueue(db, 'q');
  expect((await feedQueues(db, ['q'])).deliveries).toEqual([{ jobId: id, fence: 1, queue: 'q' }]);
  expect(await claims.add({ jobId: id, fence: 1 })).toMatchObject({ id });
});

test('a pause waits for the feeder that is picking rows, and takes back what it picked', async () => {
  await pauseQueue(db, 'q', null);
  const id = await accept();
  await db.query('UPDATE queues SET is_paused = false');
  const feeder = await db.connect();
  try {
    await feeder.query('BEGIN');
    await feeder.query(`SELECT pg_advisory_xact_lock(hashtextextended('windlass.feed.q', 0))`);
    await feeder.query('UPDATE jobs SET dispatched_at = now() WHERE id = $1', [id]);
    const pause = pauseQueue(db, 'q', null);
    await waitFor(async () => ((await countWaitingForLock()) > 0 ? true : undefined), {
      what: 'the pause to wait',
    });
    await feeder.query('COMMIT');
    await pause;
  } finally {
    feeder.release();
  }
  expect(await rowOf(id)).toMatchObject({ dispatched: false });
  expect((await feedQueues(db, ['q'])).deliveries).toEqual([]);
});

test('each of a hundred jobs that are claimed while their queue is paused either runs or waits, and none does both', async () => {
  const ids = await Promise.all(Array.from({ length: 100 }, () => accept()));
  await db.query('UPDATE jobs SET dispatched_at = now()');
  const [claimed] = await Promise.all([
    Promise.all(ids.map((id) => claims.add({ jobId: id, fence: 0 }))),
    pauseQueue(db, 'q', null),
  ]);
  for (const [index, id] of ids.entries()) {
    const isClaimed = claimed[index] !== undefined;
    expect(await rowOf(id)).toMatchObject({ state: isClaimed ? 'active' : 'queued', dispatched: false });
  }
});

test('jobs that are cancelled while their queue is paused end once, and are not fed after the resume', async () => {
  const ids = await Promise.all(Array.from({ length: 50 }, () => accept()));
  const [answers] = await Promise.all([
    Promise.all(ids.map((id) => cancelJob(db, 'default', id, null))),
    pauseQueue(db, 'q', null),
    pauseQueue(db, 'q', null),
  ]);
  expect(new Set(answers.map((answer) => answer.type))).toEqual(new Set(['cancelled']));
  await resumeQueue(db, 'q');
  expect((await feedQueues(db, ['q'])).deliveries).toEqual([]);
  const { rows } = await db.query<{ count: number }>(
    `SELECT count(*) FROM events WHERE type = 'job.cancelled'`,
  );
  expect(rows[0]?.count).toBe(50);
});

test('F39: what waited for an hour in a paused queue is fed in the order of priority and age', async () => {
  await pauseQueue(db, 'q', 'an hour of maintenance');
  const old = await accept();
  const older = await accept({ priority: 1 });
  const late = await accept({ priority: 9 });
  await db.query(
    `UPDATE jobs SET run_at = run_at - interval '1 hour', rank_at = rank_at - interval '1 hour' WHERE id = ANY($1)`,
    [[old, older]],
  );
  expect(await resumeQueue(db, 'q')).toBe(true);
  await db.query(`UPDATE workers SET slots = '{"q": 1}'`);
  const order: (string | undefined)[] = [];
  for (let n = 0; n < 3; n += 1) {
    const [delivery] = (await feedQueues(db, ['q'])).deliveries;
    order.push(delivery?.jobId);
    if (delivery !== undefined) await claims.add(delivery);
  }
  expect(order).toEqual([older, old, late]);
});

test('there is nothing to pause or to resume under an unknown name', async () => {
  expect(await pauseQueue(db, 'nothing', null)).toBe(false);
  expect(await resumeQueue(db, 'nothing')).toBe(false);
});

async function countWaitingForLock(): Promise<number> {
  const { rows } = await db.query<{ count: number }>(
    `SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
  );
  return rows[0]?.count ?? 0;
}
