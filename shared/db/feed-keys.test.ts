import { afterEach, beforeEach, expect, test } from 'vitest';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import type { Settlement } from '../domain/job.ts';
import { uuidv7 } from '../ids.ts';
import { createAcceptJobs, type NewJob } from './accept-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { ensureQueues, feedQueues } from './feed-queues.ts';
import { cancelJob } from './jobs.ts';
import { createHotDb, type Db } from './pool.ts';
import { createSettleRuns } from './settle-runs.ts';
import { reapDeadWorkers } from './workers.ts';

let world: World;
let db: Db;
const workerId = uuidv7();

beforeEach(async () => {
  world = await createWorld();
  db = createHotDb({ url: world.databaseUrl, size: 5, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
  await registerTestWorker(db, { q: 10 }, { id: workerId });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const keyed = (fields: Partial<NewJob> = {}, key = 'k', max = 1): NewJob =>
  newJob({ concurrency: { key, max }, ...fields });

/** One after the other, so that their ranks are in their order. */
async function accept(...jobs: NewJob[]): Promise<string[]> {
  const accepts = createAcceptJobs(db);
  for (const job of jobs) await accepts.add(job);
  return jobs.map((job) => job.id);
}
async function feed(): Promise<string[]> {
  const fed: string[] = [];
  for (;;) {
    const { deliveries, hasMore } = await feedQueues(db, ['q']);
    fed.push(...deliveries.map((delivery) => delivery.jobId));
    if (!hasMore) return fed;
  }
}
const claim = async (id: string, fence = 0) =>
  expect(await createClaimJobs(db, { id: workerId, tasks: ['t'] }).add({ jobId: id, fence })).toBeDefined();
const settle = (id: string, state: Settlement['state'], fence = 1) =>
  createSettleRuns(db).add({
    jobId: id,
    fence,
    workerId,
    settlement: {
      state,
      attemptsUsed: state === 'queued' ? 0 : 1,
      crashes: 0,
      delayMs: 0,
      error: undefined,
      outcome: state === 'queued' ? 'interrupted' : 'succeeded',
    },
    result: null,
    outputs: [],
  });
const countParked = async (): Promise<number> =>
  (await db.query(`SELECT 1 FROM jobs WHERE state = 'queued' AND rank_at = 'infinity'`)).rowCount ?? 0;

test('of one key no more are dispatched than may run, in the order of their rank, and the next when one has ended', async () => {
  const [a, b, c, d] = await accept(
    keyed({}, 'k', 2),
    keyed({}, 'k', 2),
    keyed({}, 'k', 2),
    keyed({}, 'k', 2),
  );
  if (a === undefined || b === undefined) throw new Error('Four jobs were accepted.');
  expect(new Set(await feed())).toEqual(new Set([a, b]));
  expect(await countParked()).toBe(2);
  expect(await feed()).toEqual([]);
  await claim(a);
  expect(await feed()).toEqual([]);
  await settle(a, 'succeeded');
  expect(await feed()).toEqual([c]);
  await cancelJob(db, 'default', b, null);
  expect(await feed()).toEqual([d]);
});

test('a job that comes, or becomes due, while another of its key runs waits for its end', async () => {
  const [running] = await accept(keyed());
  expect(await feed()).toEqual([running]);
  await claim(running ?? '');
  const [next, due] = await accept(keyed(), keyed({ delayMs: 3_600_000 }));
  await db.query(`UPDATE jobs SET run_at = now() - interval '1 s' WHERE id = $1`, [due]);
  expect(await feed()).toEqual([]);
  expect(await countParked()).toBe(2);
  await settle(running ?? '', 'succeeded');
  expect(await feed()).toEqual([next]);
});

test('a job with a key is never dispatched by its acceptance, also into an idle queue', async () => {
  const accepts = createAcceptJobs(db);
  const answers = await Promise.all([accepts.add(keyed()), accepts.add(newJob()), accepts.add(keyed())]);
  expect(answers.map((answer) => answer.type === 'accepted' && answer.isDispatched)).toEqual([
    false,
    true,
    false,
  ]);
});

test('a key belongs to its tenant and its queue', async () => {
  await db.query(`INSERT INTO tenants (id) VALUES ('b')`);
  await ensureQueues(db, ['r']);
  await accept(keyed(), keyed(), keyed({ tenantId: 'b' }), keyed({ queue: 'r' }));
  expect(await feed()).toHaveLength(2);
  expect((await feedQueues(db, ['r'])).deliveries).toHaveLength(1);
});

test('what waits for its key stands in nobody’s way: others are fed, and dispatched by their acceptance', async () => {
  const [first] = await accept(keyed(), keyed(), keyed(), newJob(), keyed({}, 'other'));
  expect(await feed()).toHaveLength(3);
  expect(await countParked()).toBe(2);
  const answer = await createAcceptJobs(db).add(newJob());
  expect(answer).toMatchObject({ isDispatched: true });
  // A further one of the key goes behind those that wait already, and is not looked at before its turn.
  await accept(keyed());
  expect(await countParked()).toBe(3);
  expect(first).toBeDefined();
});

test('a higher priority goes first among those that wait for a key', async () => {
  const [running, low, high] = await accept(keyed(), keyed(), keyed({ priority: 5 }));
  await db.query(`UPDATE jobs SET rank_at = now() - interval '1 h' WHERE id = $1`, [running]);
  expect(await feed()).toEqual([running]);
  await claim(running ?? '');
  await settle(running ?? '', 'succeeded');
  expect(await feed()).toEqual([high]);
  expect(low).toBeDefined();
});

test('a retry, a put-back and a dead worker keep and free the key like every other move: nothing is counted beside the rows', async () => {
  const [a, b] = await accept(keyed(), keyed());
  if (a === undefined || b === undefined) throw new Error('Two jobs were accepted.');
  expect(await feed()).toEqual([a]);
  await claim(a);
  await settle(a, 'queued');
  // Free for a moment; whoever is fed then, it is one.
  const [next] = await feed();
  expect(next === a || next === b).toBe(true);
  expect(await feed()).toEqual([]);
  await claim(next ?? '', next === a ? 1 : 0);
  await db.query(`UPDATE workers SET lease_until = now() - interval '1 s'`);
  expect(await reapDeadWorkers(db, () => undefined, new Date())).toHaveLength(1);
  await registerTestWorker(db, { q: 10 });
  expect(await feed()).toHaveLength(1);
});

test('four feeders at once never dispatch more of a key than may run', async () => {
  await accept(...Array.from({ length: 40 }, (_, n) => keyed({}, `k${n % 4}`, 2)));
  await db.query(`UPDATE workers SET slots = '{"q": 100}'`);
  for (let round = 0; round < 5; round += 1) {
    await Promise.all([1, 2, 3, 4].map(() => feedQueues(db, ['q'])));
    const { rows } = await db.query<{ busy: number }>(
      `SELECT count(*) AS busy FROM jobs WHERE state = 'active' OR dispatched_at IS NOT NULL GROUP BY concurrency_key`,
    );
    expect(rows.map((row) => row.busy)).toEqual([2, 2, 2, 2]);
    const { rows: dispatched } = await db.query<{ id: string }>(
      'SELECT id FROM jobs WHERE dispatched_at IS NOT NULL',
    );
    for (const { id } of dispatched) {
      await claim(id);
      await settle(id, 'succeeded');
    }
  }
  expect((await db.query(`SELECT 1 FROM jobs WHERE state = 'succeeded'`)).rowCount).toBe(40);
});

test('100,000 jobs that wait for one key cost a round of feeding a few looks, and slow nobody else down', async () => {
  const counting = createHotDb({ url: world.databaseUrl, size: 1, timeoutMs: 5_000, name: 'test' });
  try {
    const [running] = await accept(keyed());
    expect(await feed()).toEqual([running]);
    await claim(running ?? '');
    await db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms, concurrency_key, concurrency_max)
       SELECT gen_random_uuid(), 'default', 't', 'q', 'queued', now(), now(), '{}', 1, 1, 'k', 1 FROM generate_series(1, 100000)`,
    );
    // Those that are found without room are parked, a few hundred with each round.
    for (;;) {
      const { hasMore, wakeAfter } = await feedQueues(counting, ['q']);
      if (!hasMore && wakeAfter.get('q') === Infinity) break;
    }
    expect(await countParked()).toBe(100_000);

    // What the planner believes when it knows of them must not change that. What parking left in the indexes is cleared, which a
    // transaction of anybody's may have kept from happening on the way.
    await db.query('VACUUM (ANALYZE) jobs');
    const [other] = await accept(newJob({ delayMs: 1 }));
    await db.query(`UPDATE jobs SET run_at = now() - interval '1 s' WHERE state = 'scheduled'`);
    const before = await countEntriesRead(counting);
    expect((await feedQueues(counting, ['q'])).deliveries).toMatchObject([{ jobId: other }]);
    const waiting = (await countEntriesRead(counting)) - before;
    const beforeAccept = await countEntriesRead(counting);
    await createAcceptJobs(counting).add(keyed());
    const accepting = (await countEntriesRead(counting)) - beforeAccept;
    expect(await countParked()).toBe(100_001);
    await settle(running ?? '', 'succeeded');
    const ended = await countEntriesRead(counting);
    expect((await feedQueues(counting, ['q'])).deliveries).toHaveLength(1);
    const next = (await countEntriesRead(counting)) - ended;
    expect(Math.max(waiting, accepting, next)).toBeLessThan(200);
  } finally {
    await counting.end();
  }
});

async function countEntriesRead(from: Db): Promise<number> {
  await from.query('SELECT pg_stat_force_next_flush()');
  const { rows } = await from.query<{ read: number }>(
    `SELECT sum(idx_tup_read) AS read FROM pg_stat_user_indexes WHERE relname = 'jobs'`,
  );
  return Number(rows[0]?.read);
}
