import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { toUniqueKey, type UniqueKeyOption } from '../domain/unique-key.ts';
import type { Settlement } from '../domain/job.ts';
import { uuidv7 } from '../ids.ts';
import type { AcceptJobs, Acceptance, NewJob } from './accept-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { ensureQueues, feedQueues } from './feed-queues.ts';
import { findFile } from './files.ts';
import { cancelJob, findJob } from './jobs.ts';
import { createHotDb, type Db } from './pool.ts';
import { deletePurgedJobs, purgeJobs } from './retention.ts';
import { createSettleRuns } from './settle-runs.ts';
import { createAcceptAnyJobs } from './unique-jobs.ts';
import { reapDeadWorkers } from './workers.ts';

let world: World;
let db: Db;
let accepts: AcceptJobs;
const workerId = uuidv7();

beforeEach(async () => {
  world = await createWorld();
  db = createHotDb({ url: world.databaseUrl, size: 5, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
  await registerTestWorker(db, { q: 100 }, { id: workerId });
  accepts = createAcceptAnyJobs(db);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const unique = (option: Partial<UniqueKeyOption> = {}, fields: Partial<NewJob> = {}): NewJob => {
  const uniqueKey = toUniqueKey({ key: 'k', ...option });
  return newJob({ uniqueKey, delayMs: uniqueKey.debounce?.delayMs ?? 0, ...fields });
};
const countJobs = async (): Promise<number> => (await db.query('SELECT 1 FROM jobs')).rowCount ?? 0;
const heldBy = (job: NewJob, isReplaced = false): Acceptance => ({ type: 'held', jobId: job.id, isReplaced });
const claim = (job: NewJob, fence = 0) =>
  createClaimJobs(db, { id: workerId, tasks: ['t'] }).add({ jobId: job.id, fence });

async function settle(job: NewJob, state: Settlement['state'], fence = 1): Promise<void> {
  const outcome = state === 'succeeded' ? 'succeeded' : state === 'queued' ? 'interrupted' : 'failed';
  const error = outcome === 'failed' ? { code: 'x', message: 'x', retryable: true } : undefined;
  const settlement: Settlement = {
    state,
    attemptsUsed: outcome === 'interrupted' ? 0 : 1,
    crashes: 0,
    delayMs: 0,
    error,
    outcome,
  };
  const settled = await createSettleRuns(db).add({
    jobId: job.id,
    fence,
    workerId,
    settlement,
    result: null,
    outputs: [],
  });
  expect(settled).toBe(state);
}

async function expectFree(option: Partial<UniqueKeyOption> = {}): Promise<void> {
  expect(await accepts.add(unique(option))).toMatchObject({ type: 'accepted' });
}

test('of many requests with one unique key at the same moment one makes a job, and the others learn which', async () => {
  const others = createAcceptAnyJobs(db);
  const jobs = Array.from({ length: 50 }, () => unique());
  const answers = await Promise.all(jobs.map((job, index) => (index % 2 === 0 ? accepts : others).add(job)));
  const winners = jobs.filter((_, index) => answers[index]?.type === 'accepted');
  expect(winners).toHaveLength(1);
  const [winner] = winners;
  if (winner === undefined) throw new Error('No job was made.');
  expect(answers.filter((answer) => answer.type === 'held')).toEqual(
    Array.from({ length: 49 }, () => heldBy(winner)),
  );
  expect(await countJobs()).toBe(1);
});

test('a key belongs to its tenant and task', async () => {
  await db.query(`INSERT INTO tenants (id) VALUES ('b')`);
  await expectFree();
  expect(await accepts.add(unique({}, { tenantId: 'b' }))).toMatchObject({ type: 'accepted' });
  expect(await accepts.add(unique({}, { task: 't2' }))).toMatchObject({ type: 'accepted' });
  expect(await accepts.add(unique({ key: 'k2' }))).toMatchObject({ type: 'accepted' });
});

describe('until finished', () => {
  test('the key is held while the job waits, runs and waits to be tried again, and free when it succeeded', async () => {
    const job = unique();
    await accepts.add(job);
    expect(await accepts.add(unique())).toEqual(heldBy(job));
    expect(await claim(job)).toBeDefined();
    expect(await accepts.add(unique())).toEqual(heldBy(job));
    await settle(job, 'retrying');
    expect(await accepts.add(unique())).toEqual(heldBy(job));
    await feedQueues(db, ['q']);
    expect(await claim(job, 1)).toBeDefined();
    await settle(job, 'succeeded', 2);
    await expectFree();
  });

  test('the key is free when the job failed, was cancelled, was given up by the reaper, or was deleted', async () => {
    const failed = unique();
    await accepts.add(failed);
    await claim(failed);
    await settle(failed, 'failed');

    const cancelled = unique();
    expect(await accepts.add(cancelled)).toMatchObject({ type: 'accepted' });
    await cancelJob(db, 'default', cancelled.id, null);

    const stranded = unique({}, { attemptsMax: 1 });
    expect(await accepts.add(stranded)).toMatchObject({ type: 'accepted' });
    await claim(stranded);
    await db.query(`UPDATE workers SET lease_until = now() - interval '1 s'`);
    expect(await reapDeadWorkers(db, () => undefined, new Date())).toMatchObject([{ state: 'failed' }]);

    await expectFree();
    await db.query(`UPDATE jobs SET state = 'cancelled', finished_at = now(), dispatched_at = NULL, expires_at = now() - interval '1 s'
      WHERE state = 'queued'`);
    await purgeJobs(db, 100);
    await deletePurgedJobs(db, -1_000, 100);
    expect(await countJobs()).toBe(3);
    expect((await db.query('SELECT 1 FROM unique_keys')).rowCount).toBe(0);
    await expectFree();
  });

  test('with ttlMs the key is free after that time although the job lives', async () => {
    const job = unique({ until: 'finished', ttlMs: 60_000 });
    await accepts.add(job);
    expect(await accepts.add(unique())).toEqual(heldBy(job));
    await db.query(`UPDATE unique_keys SET held_until = now() - interval '1 ms'`);
    await expectFree();
    expect(await countJobs()).toBe(2);
  });
});

test('until started: the key is free from the claim on, and held again by a job that was put back unless another has it', async () => {
  const job = unique({ until: 'started' });
  await accepts.add(job);
  expect(await accepts.add(unique({ until: 'started' }))).toEqual(heldBy(job));
  await claim(job);
  await settle(job, 'queued');
  expect(await accepts.add(unique({ until: 'started' }))).toEqual(heldBy(job));
  await feedQueues(db, ['q']);
  await claim(job, 1);
  await expectFree({ until: 'started' });
});

test('ttlMs alone: one job in each window, also when it has ended within it', async () => {
  const job = unique({ ttlMs: 60_000 });
  await accepts.add(job);
  await claim(job);
  await settle(job, 'succeeded');
  expect(await accepts.add(unique({ ttlMs: 60_000 }))).toEqual(heldBy(job));
  await db.query(`UPDATE unique_keys SET held_until = now() - interval '1 ms'`);
  await expectFree({ ttlMs: 60_000 });
});

describe('debounce', () => {
  const debounced = (fields: Partial<NewJob> = {}, option: Partial<UniqueKeyOption> = {}) =>
    unique({ mode: 'debounce', delayMs: 3_600_000, maxWaitMs: 5_400_000, ...option }, fields);
  const runsIn = async (job: NewJob): Promise<number> => {
    const { rows } = await db.query<{ minutes: number }>(
      'SELECT extract(epoch FROM run_at - created_at)::float8 / 60 AS minutes FROM jobs WHERE id = $1',
      [job.id],
    );
    return Math.round(rows[0]?.minutes ?? -1);
  };

  test('a further request replaces the input of the job that waits, and puts it off, up to its longest wait', async () => {
    const job = debounced({ input: { n: 1 } });
    expect(await accepts.add(job)).toMatchObject({ type: 'accepted' });
    expect(await findJob(db, 'default', job.id)).toMatchObject({ state: 'scheduled' });
    expect(await runsIn(job)).toBe(60);
    await db.query(
      `UPDATE jobs SET created_at = created_at - interval '20 min', run_at = run_at - interval '20 min'`,
    );
    expect(await accepts.add(debounced({ input: { n: 2 } }))).toEqual(heldBy(job, true));
    expect((await findJob(db, 'default', job.id))?.input).toEqual({ n: 2 });
    expect(await runsIn(job)).toBe(80);
    await db.query(`UPDATE jobs SET created_at = created_at - interval '50 min'`);
    expect(await accepts.add(debounced({ input: { n: 3 } }))).toEqual(heldBy(job, true));
    expect(await runsIn(job)).toBe(90);
    expect(await countJobs()).toBe(1);
  });

  test('of a burst in one moment the input of one of its last requests counts', async () => {
    const jobs = Array.from({ length: 20 }, (_, n) => debounced({ input: { n } }));
    const answers = await Promise.all(jobs.map((job) => accepts.add(job)));
    const winner = jobs.find((_, index) => answers[index]?.type === 'accepted');
    expect(await countJobs()).toBe(1);
    expect((await findJob(db, 'default', winner?.id ?? ''))?.input).toEqual({ n: 19 });
  });

  test('a job that was handed to Redis is taken back; one that runs is left alone, and the request makes its own', async () => {
    const job = debounced({ input: { n: 1 } }, { maxWaitMs: 3_600_000 });
    await accepts.add(job);
    await db.query(`UPDATE jobs SET run_at = now() - interval '1 s'`);
    expect((await feedQueues(db, ['q'])).deliveries).toMatchObject([{ jobId: job.id, fence: 0 }]);
    expect(await accepts.add(debounced({ input: { n: 2 } }))).toEqual(heldBy(job, true));
    expect(await claim(job, 0)).toBeUndefined();
    await db.query(`UPDATE jobs SET run_at = now() - interval '1 s'`);
    await feedQueues(db, ['q']);
    expect(await claim(job, 1)).toMatchObject({ input: { n: 2 } });
    const next = debounced({ input: { n: 3 } });
    expect(await accepts.add(next)).toMatchObject({ type: 'accepted' });
    expect(await accepts.add(debounced())).toEqual(heldBy(next, true));
  });

  test('files of the newest request are kept for the job, those before it are let go', async () => {
    const file = () => ({
      id: uuidv7(),
      name: 'a.txt',
      mediaType: 'text/plain',
      sizeBytes: 1,
      sha256: 'ab'.repeat(32),
      retentionMs: 60_000,
    });
    const [first, second] = [file(), file()];
    const job = debounced({ newFiles: [first], inputFiles: [first.id] });
    await accepts.add(job);
    const later = debounced({ newFiles: [second], inputFiles: [second.id] });
    expect(await accepts.add(later)).toEqual(heldBy(job, true));
    expect(await findFile(db, 'default', second.id)).toBeDefined();
    expect((await db.query('SELECT job_id, file_id FROM job_inputs')).rows).toEqual([
      { job_id: job.id, file_id: second.id },
    ]);
  });
});

test('the Idempotency-Key of a request that made no job stands for the job that it was answered with', async () => {
  const job = unique({}, { idempotency: { key: 'a', fingerprint: '01' } });
  const loser = unique({}, { idempotency: { key: 'b', fingerprint: '02' } });
  await accepts.add(job);
  expect(await accepts.add(loser)).toEqual(heldBy(job));
  await cancelJob(db, 'default', job.id, null);
  // Both repeat what they said before; neither makes a job although the key is free.
  expect(await accepts.add({ ...job, id: uuidv7() })).toEqual({ type: 'duplicate' });
  expect(await accepts.add({ ...loser, id: uuidv7() })).toEqual({ type: 'duplicate' });
  const { rows } = await db.query('SELECT key, resource_id, is_duplicate FROM idempotency_keys ORDER BY key');
  expect(rows).toEqual([
    { key: 'a', resource_id: job.id, is_duplicate: false },
    { key: 'b', resource_id: job.id, is_duplicate: true },
  ]);
  await expectFree();
});

test('many equal requests with both keys are one job, and repetitions of one another', async () => {
  const jobs = Array.from({ length: 30 }, () => unique({}, { idempotency: { key: 'a', fingerprint: '01' } }));
  const others = createAcceptAnyJobs(db);
  const answers = await Promise.all(jobs.map((job, index) => (index % 2 === 0 ? accepts : others).add(job)));
  expect(answers.filter((answer) => answer.type === 'accepted')).toHaveLength(1);
  expect(answers.filter((answer) => answer.type === 'duplicate')).toHaveLength(29);
  expect(await countJobs()).toBe(1);
});
