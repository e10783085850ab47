import { afterEach, beforeEach, expect, test } from 'vitest';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { uuidv7 } from '../ids.ts';
import { createAcceptJobs, type NewJob } from './accept-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { ensureQueues, feedQueues, setQueueRates, type QueueDelivery } from './feed-queues.ts';
import { createHotDb, type Db } from './pool.ts';
import { createSettleRuns } from './settle-runs.ts';

let world: World;
let db: Db;
const workerId = uuidv7();

beforeEach(async () => {
  world = await createWorld();
  db = createHotDb({ url: world.databaseUrl, size: 8, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
  await registerTestWorker(db, { q: 100 }, { id: workerId, leaseMs: 600_000 });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const minute = 60_000;
const setRates = (queue: [number, number] | null, key: [number, number] | null = null) => {
  const rate = (pair: [number, number] | null) => pair && { max: pair[0], perMs: pair[1] };
  return setQueueRates(db, new Map([['q', { queue: rate(queue), key: rate(key) }]]));
};
const accept = (jobs: readonly NewJob[]) => {
  const accepts = createAcceptJobs(db);
  return Promise.all(jobs.map((job) => accepts.add(job)));
};
const feed = async (): Promise<readonly QueueDelivery[]> => (await feedQueues(db, ['q'])).deliveries;
const claim = (delivery: QueueDelivery) => createClaimJobs(db, { id: workerId, tasks: ['t'] }).add(delivery);
async function settle({ jobId, fence }: QueueDelivery): Promise<void> {
  await createSettleRuns(db).add({
    jobId,
    fence: fence + 1,
    workerId,
    settlement: {
      state: 'succeeded',
      attemptsUsed: 1,
      crashes: 0,
      delayMs: 0,
      error: undefined,
      outcome: 'succeeded',
    },
    result: null,
    outputs: [],
  });
}
/** Everything that happened so far happened that much earlier. */
async function age(interval: string): Promise<void> {
  await db.query(`UPDATE attempts SET started_at = started_at - interval '${interval}'`);
  await db.query(`UPDATE jobs SET started_at = started_at - interval '${interval}'`);
  await db.query(`UPDATE rate_starts SET started_at = started_at - interval '${interval}'`);
}

test('no window of the queue holds more starts than its rate, whoever feeds and claims, by the clock of the database', async () => {
  const [max, perMs] = [5, 400];
  await setRates([max, perMs]);
  await accept(Array.from({ length: 30 }, () => newJob()));
  const count = async (): Promise<number> =>
    (await db.query(`SELECT 1 FROM jobs WHERE state = 'succeeded'`)).rowCount ?? 0;
  // Each of these does what a worker does; now and then one holds its deliveries back, and claims them with the next ones.
  const work = async (n: number): Promise<void> => {
    let held: QueueDelivery[] = [];
    for (let round = n; (await count()) < 30; round += 1) {
      held.push(...(await feed()));
      if (round % 3 === 0) continue;
      for (const delivery of held) if ((await claim(delivery)) !== undefined) await settle(delivery);
      held = [];
    }
  };
  await Promise.all([0, 1, 2].map(work));
  const { rows } = await db.query<{ count: number }>(
    `SELECT (SELECT count(*) FROM attempts b WHERE b.started_at >= a.started_at
       AND b.started_at < a.started_at + ${perMs} * interval '1 ms') AS count FROM attempts a`,
  );
  expect(rows).toHaveLength(30);
  expect(Math.max(...rows.map((row) => row.count))).toBeLessThanOrEqual(max);
});

test('a delivery counts from its start on, however late that is, and as long as it has not started', async () => {
  await setRates([2, minute]);
  await accept(Array.from({ length: 5 }, () => newJob()));
  const first = await feed();
  expect(first).toHaveLength(2);
  await age('1 h');
  expect(await feed()).toEqual([]);
  for (const delivery of first) await claim(delivery);
  const waiting = await feedQueues(db, ['q']);
  expect(waiting.deliveries).toEqual([]);
  expect(waiting.nextDueMs).toBeGreaterThan(minute - 10_000);
  expect(waiting.nextDueMs).toBeLessThanOrEqual(minute);
  await age('61 s');
  expect(await feed()).toHaveLength(2);
});

test('a delivery that was taken back before its start is no start', async () => {
  await setRates([1, minute]);
  const [job, other] = [newJob(), newJob()];
  await accept([job, other]);
  const [delivery] = await feed();
  await db.query(
    `UPDATE jobs SET state = 'cancelled', fence = fence + 1, dispatched_at = NULL, finished_at = now() WHERE id = $1`,
    [delivery?.jobId],
  );
  const [next] = await feed();
  expect(next?.jobId).toBe(delivery?.jobId === job.id ? other.id : job.id);
});

test('a queue with a rate is not dispatched to by an acceptance', async () => {
  await setRates([10, minute]);
  expect(await accept([newJob()])).toMatchObject([{ isDispatched: false }]);
  await setRates(null);
  expect(await feed()).toHaveLength(1);
  expect(await accept([newJob()])).toMatchObject([{ isDispatched: true }]);
});

test('no window of a key holds more starts than its rate, and other keys and jobs without one go on', async () => {
  await setRates(null, [2, minute]);
  const keyed = (key: string) => newJob({ concurrency: { key, max: 10 } });
  await accept([
    ...Array.from({ length: 5 }, () => keyed('a')),
    keyed('b'),
    ...Array.from({ length: 3 }, () => newJob()),
  ]);
  const deliveries = [...(await feed()), ...(await feed())];
  const { rows } = await db.query<{ key: string | null; count: number }>(
    'SELECT concurrency_key AS key, count(*) FROM jobs WHERE dispatched_at IS NOT NULL GROUP BY 1 ORDER BY 1',
  );
  expect(rows).toEqual([
    { key: 'a', count: 2 },
    { key: 'b', count: 1 },
    { key: null, count: 3 },
  ]);
  for (const delivery of deliveries) if ((await claim(delivery)) !== undefined) await settle(delivery);
  expect(await feed()).toEqual([]);
  await age('61 s');
  expect(await feed()).toHaveLength(2);
});
