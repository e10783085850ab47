import { afterEach, beforeEach, expect, test } from 'vitest';
import { newJob } from '#test/support/new-job.ts';
import { createStandingPool } from '#test/support/standing-still.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createAcceptJobs, type NewJob } from './accept-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { ensureQueues, feedQueues, listDispatched, lockFeedingSql } from './feed-queues.ts';
import { cancelJob, findJob } from './jobs.ts';
import { createDb, inTransaction, type Db } from './pool.ts';
import { registerWorker } from './workers.ts';
import { uuidv7 } from '../ids.ts';

let world: World;
let db: Db;
const workerId = uuidv7();

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 5, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

/** One live worker with so many slots: the window of the queue. */
const setWindow = (slots: number) =>
  registerWorker(
    db,
    { id: workerId, host: 'h', pid: 1, version: '0', slots: { q: slots }, isolation: 'process' },
    60_000,
  );

/** Accepts without dispatching: a full window of size 0 does not exist, so a paused queue keeps rows back. */
async function acceptWaiting(jobs: readonly NewJob[]): Promise<string[]> {
  await db.query(`UPDATE queues SET is_paused = true`);
  const accepts = createAcceptJobs(db);
  for (const job of jobs) await accepts.add(job);
  await db.query(`UPDATE queues SET is_paused = false`);
  return jobs.map((job) => job.id);
}

test('an idle queue dispatches with the acceptance, a queue with waiting rows does not', async () => {
  const accepts = createAcceptJobs(db);
  expect(await accepts.add(newJob())).toMatchObject({ type: 'accepted', isDispatched: true });
  await acceptWaiting([newJob()]);
  expect(await accepts.add(newJob())).toMatchObject({ type: 'accepted', isDispatched: false });
  const { rows } = await db.query(
    `SELECT state, count(dispatched_at)::int AS dispatched FROM jobs GROUP BY 1`,
  );
  expect(rows).toEqual([{ state: 'queued', dispatched: 1 }]);
});

test('a group never dispatches more rows than its window has room for', async () => {
  await db.query('UPDATE queues SET window_size = 3');
  const accepts = createAcceptJobs(db);
  const accepted = await Promise.all(Array.from({ length: 10 }, () => accepts.add(newJob())));
  expect(accepted.filter((item) => item.type === 'accepted' && item.isDispatched)).toHaveLength(3);
});

test('a window that jobs wait for is filled again whenever its workers have taken an eighth of it, together', async () => {
  await db.query(`INSERT INTO queues (name) VALUES ('idle')`);
  const queues = ['q', 'idle'];
  const ids = await acceptWaiting(Array.from({ length: 100 }, () => newJob()));
  await setWindow(80);
  const first = await feedQueues(db, queues);
  expect(first.deliveries).toHaveLength(80);
  expect(first.wakeAfter).toEqual(
    new Map([
      ['q', 10],
      ['idle', Infinity],
    ]),
  );
  const claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
  await Promise.all(first.deliveries.slice(0, 10).map((delivery) => claims.add(delivery)));
  const other = { id: uuidv7(), host: 'h', pid: 2, version: '0', slots: { q: 8 } };
  await registerWorker(db, { ...other, isolation: 'process' }, 60_000);
  const second = await feedQueues(db, queues);
  // The window has grown by the slots of the second worker, and each of the two has to take half of an eighth.
  expect(second.deliveries).toHaveLength(18);
  expect(second.wakeAfter.get('q')).toBe(5);
  await Promise.all(second.deliveries.slice(0, 2).map((delivery) => claims.add(delivery)));
  const last = await feedQueues(db, queues);
  expect([...first.deliveries, ...second.deliveries, ...last.deliveries]).toHaveLength(ids.length);
  // Nothing waits outside of the window any more.
  expect((await feedQueues(db, queues)).wakeAfter.get('q')).toBe(Infinity);
  await withFeedingLocked(async () =>
    expect((await feedQueues(db, queues)).wakeAfter.get('q')).toBeUndefined(),
  );
});

/** While another connection feeds the queue. */
async function withFeedingLocked(action: () => Promise<void>): Promise<void> {
  await inTransaction(db, async (client) => {
    await client.query(lockFeedingSql, ['q']);
    await action();
  });
}

test('tenants take turns, however many jobs one of them has', async () => {
  await db.query(`INSERT INTO tenants (id) VALUES ('a'), ('b'), ('c')`);
  const many = await acceptWaiting(Array.from({ length: 50 }, () => newJob({ tenantId: 'a' })));
  const [first] = await acceptWaiting([newJob({ tenantId: 'b' })]);
  const [second] = await acceptWaiting([newJob({ tenantId: 'c' })]);
  await setWindow(6);
  const { deliveries } = await feedQueues(db, ['q']);
  const ids = deliveries.map((delivery) => delivery.jobId);
  expect(ids).toContain(first);
  expect(ids).toContain(second);
  expect(ids.filter((id) => many.includes(id)).toSorted()).toEqual(many.slice(0, 2).toSorted());
});

test.each([1, 10])(
  'with 100,000 jobs of one tenant waiting, the first job of another waits for one window and a free slot (window of %i)',
  async (slots) => {
    await db.query(`INSERT INTO tenants (id) VALUES ('a'), ('b')`);
    await setWindow(slots);
    await db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
       SELECT gen_random_uuid(), 'a', 't', 'q', 'queued', now(), now(), '{}', 1, 1 FROM generate_series(1, 100000)`,
    );
    const window = (await feedQueues(db, ['q'])).deliveries;
    expect(window).toHaveLength(slots);
    const job = newJob({ tenantId: 'b' });
    expect(await createAcceptJobs(db).add(job)).toMatchObject({ isDispatched: false });
    // A slot takes one delivery after the other; with each the window has room for one more.
    const claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
    const started: string[] = [];
    const waiting = [...window];
    while (!started.includes(job.id) && started.length < 2 * slots + 2) {
      const next = waiting.shift();
      if (next === undefined) break;
      await claims.add(next);
      started.push(next.jobId);
      waiting.push(...(await feedQueues(db, ['q'])).deliveries);
    }
    // Behind what was in the window already, and at most one turn of the other tenant.
    expect(started.indexOf(job.id)).toBeGreaterThan(0);
    expect(started.indexOf(job.id)).toBeLessThanOrEqual(slots + 1);
  },
);

test('three tenants that always have jobs waiting get every third slot each, also when only one is free at a time', async () => {
  await db.query(`INSERT INTO tenants (id) VALUES ('a'), ('b'), ('c')`);
  await setWindow(1);
  for (const tenantId of ['a', 'b', 'c'])
    await acceptWaiting(Array.from({ length: 10 }, () => newJob({ tenantId })));
  const claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
  const tenants: (string | undefined)[] = [];
  for (let n = 0; n < 9; n += 1) {
    const [delivery] = (await feedQueues(db, ['q'])).deliveries;
    if (delivery !== undefined) tenants.push((await claims.add(delivery))?.tenantId);
  }
  expect(tenants).toEqual(['a', 'b', 'c', 'a', 'b', 'c', 'a', 'b', 'c']);
});

test('a higher priority goes first, but a minute of waiting outweighs one step', async () => {
  await setWindow(2);
  const [low, high, old] = await acceptWaiting([newJob(), newJob({ priority: 1 }), newJob()]);
  await db.query(`UPDATE jobs SET rank_at = rank_at - interval '90 s' WHERE id = $1`, [old]);
  const { deliveries } = await feedQueues(db, ['q']);
  expect(deliveries.map((delivery) => delivery.jobId).toSorted()).toEqual([high ?? '', old ?? ''].toSorted());
  expect(deliveries.map((delivery) => delivery.jobId)).not.toContain(low);
});

test('the window is never exceeded, and refills when deliveries are taken', async () => {
  await setWindow(4);
  await acceptWaiting(Array.from({ length: 10 }, () => newJob()));
  const { deliveries } = await feedQueues(db, ['q']);
  expect(deliveries).toHaveLength(4);
  expect((await feedQueues(db, ['q'])).deliveries).toHaveLength(0);
  const claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
  await Promise.all(deliveries.slice(0, 3).map((delivery) => claims.add(delivery)));
  expect((await feedQueues(db, ['q'])).deliveries).toHaveLength(3);
  expect(await listDispatched(db, ['q'])).toHaveLength(4);
});

test('a job for later becomes queued when its time has come, by the clock of the database', async () => {
  await setWindow(4);
  const accepts = createAcceptJobs(db);
  const job = newJob({ delayMs: 3_600_000 });
  expect(await accepts.add(job)).toMatchObject({ type: 'accepted', isDispatched: false });
  expect(await findJob(db, job.tenantId, job.id)).toMatchObject({ state: 'scheduled' });
  const before = await feedQueues(db, ['q']);
  expect(before.deliveries).toEqual([]);
  expect(before.nextDueMs).toBeGreaterThan(3_500_000);
  await db.query(`UPDATE jobs SET run_at = now() - interval '1 s' WHERE id = $1`, [job.id]);
  expect((await feedQueues(db, ['q'])).deliveries).toMatchObject([{ jobId: job.id }]);
});

test('two feeders at once pick no row twice', async () => {
  await setWindow(100);
  await acceptWaiting(Array.from({ length: 100 }, () => newJob()));
  const rounds = await Promise.all([1, 2, 3, 4].map(() => feedQueues(db, ['q'])));
  const ids = rounds.flatMap((round) => round.deliveries.map((delivery) => delivery.jobId));
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids.length).toBe(100);
});

test('a paused queue is not fed', async () => {
  await setWindow(4);
  await acceptWaiting([newJob()]);
  await db.query('UPDATE queues SET is_paused = true');
  expect((await feedQueues(db, ['q'])).deliveries).toEqual([]);
});

test('a claim takes a job once, under the fence that the delivery names, and never a cancelled one', async () => {
  await setWindow(4);
  const accepts = createAcceptJobs(db);
  const [job, cancelled] = [newJob(), newJob()];
  await Promise.all([accepts.add(job), accepts.add(cancelled)]);
  await cancelJob(db, 'default', cancelled.id, null);
  const claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
  const answers = await Promise.all([
    claims.add({ jobId: job.id, fence: 5 }),
    claims.add({ jobId: job.id, fence: 0 }),
    claims.add({ jobId: job.id, fence: 0 }),
    claims.add({ jobId: cancelled.id, fence: 0 }),
    claims.add({ jobId: uuidv7(), fence: 0 }),
  ]);
  expect(answers.map((answer) => answer?.fence)).toEqual([undefined, 1, undefined, undefined, undefined]);
});

test('a worker that does not know the task puts the job back for a newer one, without using an attempt', async () => {
  await setWindow(4);
  const job = newJob({ task: 'newer' });
  await createAcceptJobs(db).add(job);
  const claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
  expect(await claims.add({ jobId: job.id, fence: 0 })).toBeUndefined();
  const { rows } = await db.query('SELECT state, fence, attempts_used FROM jobs WHERE id = $1', [job.id]);
  expect(rows).toEqual([{ state: 'scheduled', fence: 1, attempts_used: 0 }]);
});

test('what is picked at once is delivered in the order of rank, tenants in turn', async () => {
  await setWindow(20);
  await db.query(`INSERT INTO tenants (id) VALUES ('a')`);
  const priorities = [0, 9, 3, 7, 1, 5];
  const own = await acceptWaiting(priorities.map((priority) => newJob({ priority })));
  const [other = ''] = await acceptWaiting([newJob({ tenantId: 'a' })]);
  const { deliveries } = await feedQueues(db, ['q']);
  const byPriority = [1, 3, 5, 2, 4, 0].map((index) => own[index] ?? '');
  expect(deliveries.map((delivery) => delivery.jobId)).toEqual([
    byPriority[0],
    other,
    ...byPriority.slice(1),
  ]);
});

test('F44: a feeder that stands still in the middle of a tick keeps its queues from the others for moments only', async () => {
  await setWindow(5);
  const [id] = await acceptWaiting([newJob()]);
  const frozen = await createStandingPool(world.databaseUrl);
  try {
    void feedQueues(frozen.db, ['q']);
    await frozen.stands;
    expect((await feedQueues(db, ['q'])).deliveries).toEqual([]);
    // Well below the limit of all other transactions.
    const fed = await waitFor(
      async () => {
        const { deliveries } = await feedQueues(db, ['q']);
        return deliveries.length > 0 ? deliveries : undefined;
      },
      { what: 'the queue to be fed by another', deadlineMs: 22_000 },
    );
    expect(fed).toEqual([{ jobId: id, fence: 0, queue: 'q' }]);
  } finally {
    await frozen.close();
  }
});
