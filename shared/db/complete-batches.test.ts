import { afterEach, beforeEach, expect, test } from 'vitest';
import { uuidAfter, uuidv7WithRoom } from '#shared/ids.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { acceptBatch, countBatch, findBatch, pruneBatches } from './batches.ts';
import { completeBatches, completeNextBatches } from './complete-batches.ts';
import { deleteJob } from './delete-job.ts';
import { releaseStranded } from './dependencies.ts';
import { drainQueue } from './drain-queue.ts';
import { expireJobs } from './expire-jobs.ts';
import { cancelJob } from './jobs.ts';
import { retryJob } from './retry-job.ts';
import { createDb, type Db } from './pool.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 10, timeoutMs: 5_000, name: 'test' });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

interface Made {
  readonly id: string;
  readonly jobs: readonly string[];
  readonly after: string;
}

async function makeBatch(
  options: { size?: number; fillsBatch?: boolean; startWithinMs?: number; onCompleteWithinMs?: number } = {},
): Promise<Made> {
  const id = uuidv7WithRoom();
  const { size = 3, fillsBatch = false } = options;
  const jobs = Array.from({ length: size }, (_, n) =>
    newJob({
      id: uuidAfter(id, n + 1),
      batchId: id,
      options: options.startWithinMs === undefined ? {} : { startWithinMs: options.startWithinMs },
    }),
  );
  const job = newJob({
    id: uuidAfter(id, size + 1),
    priority: 2,
    input: { b: 1, a: 2 },
    options: options.onCompleteWithinMs === undefined ? {} : { startWithinMs: options.onCompleteWithinMs },
  });
  const acceptance = await acceptBatch(db, {
    id,
    tenantId: 'default',
    jobs,
    refused: [],
    onComplete: { job, fillsBatch },
    idempotency: undefined,
  });
  expect(acceptance.type).toBe('accepted');
  return { id, jobs: jobs.map((job) => job.id), after: job.id };
}

async function end(ids: readonly string[], state: 'succeeded' | 'failed' | 'cancelled' = 'succeeded') {
  await db.query('UPDATE jobs SET state = $2, finished_at = now(), dispatched_at = NULL WHERE id = ANY($1)', [
    ids,
    state,
  ]);
}

async function read(id: string) {
  const { rows } = await db.query<Record<string, unknown>>(
    `SELECT state, input::text AS input, rank_at < run_at AS is_ahead, run_at = now() AS is_now,
       (SELECT array_agg(type ORDER BY e.id) FROM events e WHERE e.job_id = j.id) AS events FROM jobs j WHERE id = $1`,
    [id],
  );
  return rows[0];
}

test('the job that waits for a batch starts once, when the last job has ended, whatever its end', async () => {
  const { id, jobs, after } = await makeBatch();
  const [first = '', second = '', third = ''] = jobs;
  expect(await read(after)).toMatchObject({ state: 'blocked', events: ['job.blocked'] });
  await end([first], 'failed');
  await end([second], 'cancelled');
  for (const state of ['scheduled', 'queued', 'retrying', 'blocked']) {
    await db.query('UPDATE jobs SET state = $2, dispatched_at = NULL WHERE id = $1', [third, state]);
    expect((await completeBatches(db, [id])).started).toEqual([]);
  }
  await end([third]);
  const looks = await Promise.all(Array.from({ length: 10 }, () => completeBatches(db, [id])));
  expect(looks.flatMap((look) => look.started)).toEqual([after]);
  expect(await read(after)).toEqual({
    state: 'queued',
    input: '{"b":1,"a":2}',
    is_ahead: true,
    is_now: false,
    events: ['job.blocked', 'job.queued'],
  });
  expect(await completeBatches(db, [id])).toEqual({ lookedAt: [], started: [] });
});

test('input.batch says how the jobs ended', async () => {
  const { id, jobs, after } = await makeBatch({ size: 6, fillsBatch: true });
  await end(jobs.slice(0, 3));
  await end(jobs.slice(3, 5), 'failed');
  await end(jobs.slice(5), 'cancelled');
  await completeBatches(db, [id]);
  expect(JSON.parse(String((await read(after))?.['input']))).toEqual({
    a: 2,
    b: 1,
    batch: { id, total: 6, succeeded: 3, failed: 2, cancelled: 1 },
  });
});

const retry = (id: string) => retryJob(db, { tenantId: 'default', id, inputFiles: [] });

test('a job that is retried before the batch is complete holds up what waits, and counts by how it ends then', async () => {
  const { id, jobs, after } = await makeBatch({ size: 2, fillsBatch: true });
  const [first = '', second = ''] = jobs;
  await end([first], 'failed');
  expect(await retry(first)).toEqual({ type: 'queued', waits: false });
  await end([second]);
  expect((await completeBatches(db, [id])).started).toEqual([]);
  await end([first]);
  expect((await completeBatches(db, [id])).started).toEqual([after]);
  expect(JSON.parse(String((await read(after))?.['input']))).toMatchObject({
    batch: { total: 2, succeeded: 2, failed: 0, cancelled: 0 },
  });
});

test('a job that is retried after that starts nothing again, and the counts show the present', async () => {
  const { id, jobs, after } = await makeBatch({ size: 2, fillsBatch: true });
  const [first = ''] = jobs;
  await end(jobs, 'failed');
  expect((await completeBatches(db, [id])).started).toEqual([after]);
  const told = await read(after);
  expect(await retry(first)).toEqual({ type: 'queued', waits: false });
  expect(await countBatch(db, 'default', id)).toEqual(
    expect.arrayContaining([
      { state: 'failed', count: 1 },
      { state: 'queued', count: 1 },
    ]),
  );
  await end([first]);
  expect((await completeBatches(db, [id])).started).toEqual([]);
  expect(await read(after)).toEqual(told);
  expect(await countBatch(db, 'default', id)).toEqual(
    expect.arrayContaining([
      { state: 'failed', count: 1 },
      { state: 'succeeded', count: 1 },
    ]),
  );
});

test('of a retry and the end of the batch at the same moment, one is first: the job starts once, after what it saw', async () => {
  for (let round = 0; round < 10; round += 1) {
    const { id, jobs, after } = await makeBatch({ size: 1 });
    await end(jobs, 'failed');
    const [, look] = await Promise.all([retry(jobs[0] ?? ''), completeBatches(db, [id])]);
    await end(jobs);
    const later = await completeBatches(db, [id]);
    expect([...look.started, ...later.started]).toEqual([after]);
  }
});

test('a batch is complete when its jobs were deleted, drained, or have expired', async () => {
  const { id, jobs, after } = await makeBatch({ size: 3, fillsBatch: true, startWithinMs: 60_000 });
  const [deleted = '', expired = '', drained = ''] = jobs;
  await end([deleted]);
  expect(await deleteJob(db, 'default', deleted)).toMatchObject({ type: 'deleted' });
  await db.query(`UPDATE jobs SET start_before = now() WHERE id = $1`, [expired]);
  expect(await expireJobs(db, ['q'])).toEqual([expired]);
  expect((await completeBatches(db, [id])).started).toEqual([]);
  // A queue of its own, so that what waits for the batch is not drained.
  await db.query(`UPDATE jobs SET queue = 'own' WHERE id = $1`, [drained]);
  await drainQueue(db, {
    queue: 'own',
    tenantId: 'default',
    reason: null,
    budgetMs: 60_000,
    onCancelled: () => {},
  });
  expect((await completeBatches(db, [id])).started).toEqual([after]);
  expect(JSON.parse(String((await read(after))?.['input']))).toMatchObject({
    batch: { total: 3, succeeded: 0, failed: 1, cancelled: 1 },
  });
});

test('what waits for a batch and is drained does not start, and the batch is done with', async () => {
  const { id, jobs, after } = await makeBatch({ size: 1 });
  await drainQueue(db, {
    queue: 'q',
    tenantId: 'default',
    reason: null,
    budgetMs: 60_000,
    onCancelled: () => {},
  });
  expect(await read(after)).toMatchObject({ state: 'cancelled' });
  expect((await completeBatches(db, [id])).started).toEqual([]);
  expect(jobs).toHaveLength(1);
  expect((await completeNextBatches(db, '00000000-0000-0000-0000-000000000000', 10)).lookedAt).toEqual([]);
});

test('startWithinMs of a job that waits for a batch counts from when it is let go', async () => {
  const { id, jobs, after } = await makeBatch({ size: 1, onCompleteWithinMs: 60_000 });
  const startBefore = async () =>
    (
      await db.query(
        `SELECT state, start_before IS NULL AS is_open, start_before - run_at = interval '60 s' AS is_set FROM jobs WHERE id = $1`,
        [after],
      )
    ).rows[0];
  // However long the batch takes.
  await db.query(`UPDATE jobs SET created_at = created_at - interval '1 h'`);
  expect(await expireJobs(db, ['q'])).toEqual([]);
  expect(await startBefore()).toEqual({ state: 'blocked', is_open: true, is_set: null });
  await end(jobs);
  await completeBatches(db, [id]);
  expect(await startBefore()).toEqual({ state: 'queued', is_open: false, is_set: true });
  await db.query(`UPDATE jobs SET start_before = now() WHERE id = $1`, [after]);
  expect(await expireJobs(db, ['q'])).toEqual([after]);
});

test('what waits for a batch waits for no job, and the last resort for those that do leaves it alone', async () => {
  const { id, jobs, after } = await makeBatch();
  expect(await releaseStranded(db, '00000000-0000-0000-0000-000000000000', 10)).toEqual({
    next: undefined,
    released: 0,
  });
  expect(await read(after)).toMatchObject({ state: 'blocked' });
  await end(jobs);
  expect((await completeBatches(db, [id])).started).toEqual([after]);
});

test('a waiting job that was cancelled does not start, and its batch is done with', async () => {
  const { id, jobs, after } = await makeBatch();
  expect(await cancelJob(db, 'default', after, null)).toEqual({ type: 'cancelled' });
  await end(jobs);
  expect((await completeBatches(db, [id])).started).toEqual([]);
  expect(await read(after)).toMatchObject({ state: 'cancelled' });
  expect((await completeNextBatches(db, '00000000-0000-0000-0000-000000000000', 10)).lookedAt).toEqual([]);
});

test('batches that nobody speaks of are found in pages, however many wait', async () => {
  const made: Made[] = [];
  for (let n = 0; n < 7; n += 1) made.push(await makeBatch({ size: 1 }));
  await end(made[5]?.jobs ?? []);
  const started: string[] = [];
  let after = '00000000-0000-0000-0000-000000000000';
  for (const expected of [3, 3, 1]) {
    const look = await completeNextBatches(db, after, 3);
    expect(look.lookedAt).toHaveLength(expected);
    started.push(...look.started);
    after = look.lookedAt.at(-1) ?? '';
  }
  expect(started).toEqual([made[5]?.after]);
});

test('a batch is forgotten when its last job is gone, and not before', async () => {
  const [ended, waiting] = [await makeBatch({ size: 1 }), await makeBatch({ size: 1 })];
  const prune = async () =>
    pruneBatches(db, { after: '00000000-0000-0000-0000-000000000000', keptMs: 0, limit: 10 });
  await end(ended.jobs);
  await completeBatches(db, [ended.id]);
  expect(await prune()).toBe(waiting.id);
  expect(await findBatch(db, 'default', ended.id)).toBeDefined();
  // Gone, although its batch still has something to start.
  await db.query('DELETE FROM jobs WHERE id = ANY($1)', [[...ended.jobs, ...waiting.jobs]]);
  await prune();
  expect(await findBatch(db, 'default', ended.id)).toBeUndefined();
  expect(await findBatch(db, 'default', waiting.id)).toBeDefined();
  expect((await completeBatches(db, [waiting.id])).started).toEqual([waiting.after]);
});
