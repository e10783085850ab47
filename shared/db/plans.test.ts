import { afterEach, beforeEach, expect, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createAcceptJobs } from './accept-jobs.ts';
import { createAnnounceFiles } from './announce-files.ts';
import { completeBatches, completeNextBatches } from './complete-batches.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { drainQueue } from './drain-queue.ts';
import { lookAtNextSteps, lookAtSteps } from './each-runs.ts';
import { expireJobs } from './expire-jobs.ts';
import { ensureQueues, feedQueues } from './feed-queues.ts';
import { countWaiting } from './jobs.ts';
import { createDb, createHotDb, type Db } from './pool.ts';
import { listQueueStats, queueCountMax } from './queue-stats.ts';
import { deletePurgedJobs, prunePendingFiles, purgeJobs } from './retention.ts';
import { tickSchedules } from './schedule-ticks.ts';
import { findSchedule, putSchedule } from './schedules.ts';
import { createSettleRuns } from './settle-runs.ts';
import { countWaitingOfTenant } from './tenant-usage.ts';
import { listWorkers } from './worker-list.ts';
import type { Settlement } from '../domain/job.ts';
import { reapDeadWorkers, renewLease } from './workers.ts';

const succeeded: Settlement = {
  state: 'succeeded',
  attemptsUsed: 1,
  crashes: 0,
  delayMs: 0,
  error: undefined,
  outcome: 'succeeded',
};

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  // One connection: the counts of what it has read are its own.
  db = createDb({ url: world.databaseUrl, size: 1, timeoutMs: 5_000, name: 'test' });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

test('what every job and every second costs is found by an index, also when the statistics still know a backlog that is gone', async () => {
  await ensureQueues(db, ['q']);
  await insertBacklogThatIsGone();
  const before = await countSequentialScans();

  const workerId = uuidv7();
  await registerTestWorker(db, { q: 10 }, { id: workerId });
  const job = newJob();
  await createAcceptJobs(db).add(job);
  await feedQueues(db, ['q']);
  const claimed = await createClaimJobs(db, { id: workerId, tasks: ['t'] }).add({ jobId: job.id, fence: 0 });
  expect(claimed).toBeDefined();
  const run = { jobId: job.id, fence: 1, workerId };
  await renewLease(db, { id: workerId, leaseMs: 1_000, drain: {}, memoryBytes: 0, runs: [run] });
  const file = { id: uuidv7(), name: 'a.txt', mediaType: 'text/plain' };
  expect(await createAnnounceFiles(db).add({ run, files: [file] })).toBe(true);
  const settled = await createSettleRuns(db).add({
    ...run,
    settlement: succeeded,
    result: null,
    outputs: [{ ...file, sizeBytes: 1, sha256: '00'.repeat(32) }],
  });
  expect(settled).toBe('succeeded');
  await completeBatches(db, [uuidv7()]);
  await completeNextBatches(db, uuidv7(), 500);
  await lookAtSteps(db, [uuidv7()]);
  await lookAtNextSteps(db, uuidv7(), 200);
  await reapDeadWorkers(db, () => undefined, new Date(0));
  await putSchedule(
    db,
    'default',
    {
      key: 's',
      task: 't',
      input: {},
      options: {},
      timing: { type: 'every', everyMs: 1_000 },
      misfire: 'skip',
      overlap: 'skip',
      isPaused: false,
      fileIds: [],
    },
    10,
  );
  await db.query('UPDATE schedules SET next_due_at = now()');
  const ticked = await tickSchedules(db, {
    tasks: ['t'],
    limit: 10,
    bytesMax: 1,
    waitingPerTenantMax: 10,
    decide: ({ now }) => ({
      type: 'decided',
      jobs: [],
      bytes: 0,
      decidedUntil: now,
      nextDueAt: null,
      lastTick: undefined,
    }),
  });
  expect(ticked.schedules).toBe(1);
  expect(await findSchedule(db, 'default', 's')).toBeDefined();
  await purgeJobs(db, 500);
  await deletePurgedJobs(db, 0, 500);
  await prunePendingFiles(db, 500);
  await expireJobs(db, ['q']);
  await countWaiting(db, 1_000_000);
  await countWaitingOfTenant(db, 'default', 10_000);
  await listQueueStats(db);
  await listWorkers(db, 'default', { limit: 10 });
  await drainQueue(db, {
    queue: 'q',
    tenantId: 'default',
    reason: null,
    budgetMs: 60_000,
    onCancelled: () => {},
  });

  expect(await countSequentialScans()).toEqual(before);
});

test.each([
  ['before anybody has analyzed the table', []],
  ['when the planner knows how many wait', ['VACUUM (ANALYZE) jobs']],
])('feeding a few of many waiting jobs reads a few, %s', async (_when, preparations) => {
  const hot = createHotDb({ url: world.databaseUrl, size: 1, timeoutMs: 5_000, name: 'test' });
  try {
    await ensureQueues(db, ['q']);
    await db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
       SELECT gen_random_uuid(), 'default', 't', 'q', 'queued', now(), now(), '{}', 1, 1 FROM generate_series(1, 50000)`,
    );
    for (const sql of preparations) await db.query(sql);
    const before = await countEntriesRead(hot);
    // No live worker: the window is 1.
    expect((await feedQueues(hot, ['q'])).deliveries).toHaveLength(1);
    expect((await countEntriesRead(hot)) - before).toBeLessThan(100);
  } finally {
    await hot.end();
  }
});

test('whether the items of steps have ended is told by a few entries, however many items and other jobs there are', async () => {
  const hot = createHotDb({ url: world.databaseUrl, size: 1, timeoutMs: 5_000, name: 'test' });
  try {
    await insertFinished(20_000);
    const eachIds = Array.from({ length: 20 }, () => uuidv7());
    await db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
       SELECT id, 'default', 'workflow.each', 'workflow', 'blocked', now(), now(), '{}', 1, 1 FROM unnest($1::uuid[]) AS id`,
      [eachIds],
    );
    await db.query(
      `INSERT INTO each_runs (job_id, tenant_id, total) SELECT id, 'default', 1000 FROM unnest($1::uuid[]) AS id`,
      [eachIds],
    );
    // Of the first ten all items have ended, of the others all but the last.
    await db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms, finished_at, each_id, each_index)
       SELECT gen_random_uuid(), 'default', 't', 'q', CASE WHEN is_open THEN 'queued'::job_state ELSE 'succeeded' END, now(), now(), '{}', 1, 1,
         CASE WHEN NOT is_open THEN now() END, e.id, n
       FROM unnest($1::uuid[]) WITH ORDINALITY AS e(id, place) CROSS JOIN generate_series(1, 1000) AS n CROSS JOIN LATERAL (SELECT e.place > 10 AND n = 1000) AS o(is_open)`,
      [eachIds],
    );
    for (const preparation of ['SELECT', 'VACUUM (ANALYZE) jobs']) {
      await db.query(preparation);
      await db.query(`UPDATE jobs SET state = 'blocked' WHERE task = 'workflow.each'`);
      const before = await countEntriesRead(hot);
      expect(
        (await lookAtNextSteps(hot, eachIds[0]?.replace(/^.{8}/, '00000000') ?? '', 200)).resumed,
      ).toHaveLength(10);
      expect((await countEntriesRead(hot)) - before).toBeLessThan(500);
    }
  } finally {
    await hot.end();
  }
});

test('F40: statistics of queues read no more than they count, however much waits and whatever the planner believes', async () => {
  await ensureQueues(db, ['q']);
  const insertWaiting = (count: number) =>
    db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
       SELECT gen_random_uuid(), 'default', 't', 'q', CASE WHEN n % 2 = 0 THEN 'queued'::job_state ELSE 'scheduled' END,
         now() + random() * interval '1 day', now(), '{}', 1, 1 FROM generate_series(1, $1::integer) AS n`,
      [count],
    );
  // Nobody has analyzed the table: the planner believes in a few rows, which it may collect and sort.
  for (let n = 0; n < 6; n += 1) await insertWaiting(5 * queueCountMax);
  const before = await countEntriesRead(db);
  expect(await listQueueStats(db)).toMatchObject([{ queued: queueCountMax, scheduled: queueCountMax }]);
  expect((await countEntriesRead(db)) - before).toBeLessThan(5 * queueCountMax);
});

test('F63: beside a million finished jobs a job costs as little as ever, a transaction that somebody left open adds a little for each job that has ended since, and expired ones go in batches', async () => {
  const hot = createHotDb({ url: world.databaseUrl, size: 1, timeoutMs: 5_000, name: 'test' });
  try {
    await ensureQueues(hot, ['q']);
    await insertFinished(1_000_000);
    const workerId = uuidv7();
    await registerTestWorker(hot, { q: 10 }, { id: workerId });
    const costOf = async (work: () => Promise<unknown>) => {
      const before = await countEntriesRead(hot);
      await work();
      return (await countEntriesRead(hot)) - before;
    };
    expect(await costOf(() => runOneJob(hot, workerId))).toBeLessThan(100);
    expect(await costOf(() => purgeJobs(hot, 500))).toBeLessThan(500 * 10);

    const left = await db.connect();
    await left.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    await left.query('SELECT count(*) FROM queues');
    for (let ended = 0; ended < 50; ended += 1)
      expect(await costOf(() => runOneJob(hot, workerId))).toBeLessThan(100 + 20 * ended);
    await left.query('ROLLBACK');
    left.release();
    // The first ones after it still meet what they have left in the indexes, and mark it as dead.
    await waitFor(async () => ((await costOf(() => runOneJob(hot, workerId))) < 100 ? true : undefined), {
      what: 'a job that costs as little as before',
    });
  } finally {
    await hot.end();
  }
});

/** As they are when nobody has deleted any for a while: all have expired. */
async function insertFinished(count: number): Promise<void> {
  const step = 100_000;
  for (let first = 1; first <= count; first += step) {
    // Ids that grow, as real ones do.
    await db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms, finished_at, expires_at)
       SELECT lpad(to_hex(n), 32, '0')::uuid, 'default', 't', 'q', 'succeeded', now(), now(), '{}', 1, 1, now(), now() - interval '1 s'
       FROM generate_series($1::integer, $2::integer) AS n`,
      [first, first + step - 1],
    );
  }
}

/** From its acceptance through the feeder to its end. */
async function runOneJob(hot: Db, workerId: string): Promise<void> {
  const job = newJob({ delayMs: 1 });
  await createAcceptJobs(hot).add(job);
  await waitFor(async () => ((await feedQueues(hot, ['q'])).deliveries.length === 1 ? true : undefined), {
    what: 'the job to be due',
  });
  const claimed = await createClaimJobs(hot, { id: workerId, tasks: ['t'] }).add({ jobId: job.id, fence: 0 });
  expect(claimed).toBeDefined();
  const run = { jobId: job.id, fence: 1, workerId };
  await renewLease(hot, { id: workerId, leaseMs: 60_000, drain: {}, memoryBytes: 0, runs: [run] });
  expect(await createSettleRuns(hot).add({ ...run, settlement: succeeded, result: null, outputs: [] })).toBe(
    'succeeded',
  );
}

async function countEntriesRead(on: Db): Promise<number> {
  await on.query('SELECT pg_stat_force_next_flush()');
  const { rows } = await on.query<{ read: number }>(
    `SELECT idx_tup_fetch + seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'jobs') AS read
     FROM pg_stat_user_tables WHERE relname = 'jobs'`,
  );
  return Number(rows[0]?.read);
}

/** Finished jobs and files, of which the statistics say that a third still waits. */
async function insertBacklogThatIsGone(): Promise<void> {
  await db.query(
    `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms, finished_at, expires_at)
     SELECT gen_random_uuid(), 'default', 't', 'q', CASE WHEN n % 3 = 0 THEN 'queued'::job_state ELSE 'succeeded' END, now(), now(),
       '{}', 1, 1, CASE WHEN n % 3 > 0 THEN now() END, now() + interval '1 day'
     FROM generate_series(1, 9000) AS n`,
  );
  await db.query(
    `INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, job_id)
     SELECT gen_random_uuid(), 'default', 'ready', 'f', 'text/plain', 0, sha256(''), id FROM jobs`,
  );
  await db.query('ANALYZE jobs');
  await db.query('ANALYZE files');
  await db.query(`UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE state = 'queued'`);
}

async function countSequentialScans(): Promise<Record<string, number>> {
  await db.query('SELECT pg_stat_force_next_flush()');
  const { rows } = await db.query<{ relname: string; seq_scan: number }>(
    `SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN ('jobs', 'files')`,
  );
  return Object.fromEntries(rows.map((row) => [row.relname, row.seq_scan]));
}
