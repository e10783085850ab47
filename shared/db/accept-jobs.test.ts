import { Client } from 'pg';
import { afterEach, beforeEach, expect, inject, test } from 'vitest';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createAcceptJobs, insertJobs, isMissingFileError, type NewJob } from './accept-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { ensureQueues } from './feed-queues.ts';
import { createAnnounceFiles } from './announce-files.ts';
import { deleteFile, findFile, listFilesOfJob } from './files.ts';
import { findIdempotencyKey } from './idempotency.ts';
import { appendLogs, listLogs } from './job-logs.ts';
import { cancelJob, findJob, listAttempts, saveProgress } from './jobs.ts';
import { createDb, type Db } from './pool.ts';
import { createSettleRuns, type RunEnd } from './settle-runs.ts';
import { reapDeadWorkers, renewLease, type OwnedRun } from './workers.ts';
import type { Settlement } from '../domain/job.ts';
import { uuidv7 } from '../ids.ts';

let world: World;
let db: Db;
const workerId = uuidv7();
const sha256 = 'ab'.repeat(32);

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 5, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
  await registerTestWorker(db, { q: 10 }, { id: workerId });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const succeeded: Settlement = {
  state: 'succeeded',
  attemptsUsed: 1,
  crashes: 0,
  delayMs: 0,
  error: undefined,
  outcome: 'succeeded',
};

async function acceptAndClaim(job: NewJob): Promise<OwnedRun> {
  await createAcceptJobs(db).add(job);
  const claimed = await createClaimJobs(db, { id: workerId, tasks: ['t'] }).add({ jobId: job.id, fence: 0 });
  if (claimed === undefined) throw new Error('The job could not be claimed.');
  return { jobId: job.id, fence: claimed.fence, workerId };
}

const key = ({ jobId, fence }: OwnedRun) => ({ jobId, fence });

const end = (run: OwnedRun, fields: Partial<RunEnd> = {}): RunEnd => ({
  ...run,
  settlement: succeeded,
  result: { ok: true },
  outputs: [],
  ...fields,
});

test('F11: requests that meet another transaction in a deadlock are tried again, and accepted', async () => {
  const url = new URL(inject('servers').postgresAdminUrl);
  url.pathname = new URL(world.databaseUrl).pathname;
  const holder = new Client({ connectionString: url.href });
  await holder.connect();
  try {
    const insertKey = (key: string) =>
      holder.query(
        `INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id)
         VALUES ('default', $1, '', 'job', gen_random_uuid())`,
        [key],
      );
    // It is ours that Postgres gives up.
    await holder.query(`SET deadlock_timeout = '60s'`);
    await holder.query('BEGIN');
    await insertKey('b');
    const accepts = createAcceptJobs(db);
    const accepted = Promise.all(
      ['a', 'b'].map((key) => accepts.add(newJob({ idempotency: { key, fingerprint: sha256 } }))),
    );
    await waitFor(
      async () => {
        const { rowCount } = await db.query(
          `SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        );
        return rowCount === 1 ? true : undefined;
      },
      { what: 'the group to hold one key and to wait for the other' },
    );
    await insertKey('a');
    await holder.query('ROLLBACK');
    expect((await accepted).map((acceptance) => acceptance.type)).toEqual(['accepted', 'accepted']);
  } finally {
    await holder.end();
  }
});

test('of many requests with one key at the same moment, one makes a job and the others learn which', async () => {
  const jobs = Array.from({ length: 30 }, () => newJob({ idempotency: { key: 'k', fingerprint: '01' } }));
  // Two groups in flight at once, as two api processes would have.
  const [even, odd] = [createAcceptJobs(db), createAcceptJobs(db)];
  const answers = await Promise.all(jobs.map((job, index) => (index % 2 === 0 ? even : odd).add(job)));
  const winners = jobs.filter((_, index) => answers[index]?.type === 'accepted');
  expect(winners).toHaveLength(1);
  expect((await findIdempotencyKey(db, 'default', 'k'))?.resource_id).toBe(winners[0]?.id);
  expect((await db.query('SELECT id FROM jobs')).rows).toEqual([{ id: winners[0]?.id }]);
});

test('what was not written is not answered as written, also when Postgres calls it by another name', async () => {
  const idempotency = { key: 'used', fingerprint: '00' };
  await insertJobs(db, [newJob({ idempotency })]);
  const shouted = { ...newJob({ idempotency }), id: uuidv7().toUpperCase() };
  await expect(insertJobs(db, [shouted])).rejects.toThrow('0 jobs were written');
});

test('a job and its new file are committed together, and the file is kept while the job is not final', async () => {
  const file = {
    id: uuidv7(),
    name: 'a.txt',
    mediaType: 'text/plain',
    sizeBytes: 3,
    sha256,
    retentionMs: 60_000,
  };
  const run = await acceptAndClaim(newJob({ inputFiles: [file.id], newFiles: [file] }));
  expect(await findFile(db, 'default', file.id)).toMatchObject({ name: 'a.txt', sha256 });
  expect(await deleteFile(db, 'default', file.id)).toBe('in-use');
  await createSettleRuns(db).add(end(run));
  expect(await deleteFile(db, 'default', file.id)).toBe('deleted');
});

test('a job that refers to a missing file is refused, and takes no other job of its group with it', async () => {
  const accepts = createAcceptJobs(db);
  const [bad, good] = await Promise.allSettled([
    accepts.add(newJob({ inputFiles: [uuidv7()] })),
    accepts.add(newJob()),
  ]);
  expect(bad.status === 'rejected' && isMissingFileError(bad.reason)).toBe(true);
  expect(good.status).toBe('fulfilled');
});

test('a run settles once; whoever comes later with the same or an older fence changes nothing', async () => {
  const run = await acceptAndClaim(newJob());
  const settles = createSettleRuns(db);
  expect(await settles.add(end({ ...run, fence: run.fence - 1 }))).toBeUndefined();
  expect(await settles.add(end(run))).toBe('succeeded');
  // The same end once more is what a run sends that has not heard of its commit: it is told, and nothing is written.
  expect(await settles.add(end(run, { result: { ok: 'again' } }))).toBe('succeeded');
  expect((await findJob(db, 'default', run.jobId))?.result).toEqual({ ok: true });
  expect(await listAttempts(db, 'default', run.jobId)).toHaveLength(1);
});

test('a run whose claim Postgres forgot writes nothing under the fence that another worker was given', async () => {
  const run = await acceptAndClaim(newJob());
  const zombie = { ...run, workerId: uuidv7() };
  const file = { id: uuidv7(), name: 'out.txt', mediaType: 'text/plain' };
  expect(await createAnnounceFiles(db).add({ run: zombie, files: [file] })).toBe(false);
  await saveProgress(db, [{ ...zombie, percent: 1, message: null }]);
  const log = (who: OwnedRun, message: string) =>
    appendLogs(db, { ...who, tenantId: 'default' }, [{ line: 0, at: new Date(), message }]);
  await log({ ...zombie, fence: run.fence + 1 }, 'while the record has forgotten it');
  await log(zombie, 'when the fence is given again');
  await log(run, 'the run in the record');
  expect((await findJob(db, 'default', run.jobId))?.progress).toBeNull();
  expect(await listLogs(db, 'default', run.jobId, { limit: 10 })).toMatchObject([
    { fence: run.fence, line: 0, message: 'the run in the record' },
  ]);
  expect(await createSettleRuns(db).add(end(zombie))).toBeUndefined();
  expect(await createSettleRuns(db).add(end(run))).toBe('succeeded');
  expect(
    await createSettleRuns(db).add(end(zombie)),
    'it is not told that the end is its own',
  ).toBeUndefined();
  expect(await createSettleRuns(db).add(end(run)), 'asked again, whose end it is').toBe('succeeded');
});

test('output files are announced only by the run that owns the job, and become visible with its result', async () => {
  const run = await acceptAndClaim(newJob());
  const file = { id: uuidv7(), name: 'out.txt', mediaType: 'text/plain' };
  expect(await createAnnounceFiles(db).add({ run: { ...run, fence: run.fence - 1 }, files: [file] })).toBe(
    false,
  );
  expect(await createAnnounceFiles(db).add({ run, files: [file] })).toBe(true);
  expect(await findFile(db, 'default', file.id)).toBeUndefined();
  await createSettleRuns(db).add(end(run, { outputs: [{ ...file, sizeBytes: 5, sha256 }] }));
  expect(await listFilesOfJob(db, 'default', run.jobId)).toMatchObject([{ id: file.id, size_bytes: 5 }]);
});

test('the result of a run has its files also when Postgres forgot their announcement in a crash', async () => {
  const run = await acceptAndClaim(newJob());
  const ids = [uuidv7(), uuidv7()].toSorted();
  const files = ids.map((id, number) => ({ id, name: `${number}.txt`, mediaType: 'text/plain' }));
  expect(await createAnnounceFiles(db).add({ run, files })).toBe(true);
  await db.query(`DELETE FROM files WHERE name = '1.txt'`);
  const outputs = files.map((file) => ({ ...file, sizeBytes: 5, sha256 }));
  expect(await createSettleRuns(db).add(end(run, { outputs }))).toBe('succeeded');
  expect(await listFilesOfJob(db, 'default', run.jobId)).toMatchObject(
    files.map(({ id, name }) => ({ id, name, media_type: 'text/plain', size_bytes: 5, sha256 })),
  );
});

test('a file of another job does not become an output of the run that names it', async () => {
  const [run, other] = [await acceptAndClaim(newJob()), await acceptAndClaim(newJob())];
  const file = { id: uuidv7(), name: 'theirs.txt', mediaType: 'text/plain' };
  expect(await createAnnounceFiles(db).add({ run: other, files: [file] })).toBe(true);
  await createSettleRuns(db).add(end(run, { outputs: [{ ...file, sizeBytes: 5, sha256 }] }));
  expect(await listFilesOfJob(db, 'default', run.jobId)).toEqual([]);
  expect(await findFile(db, 'default', file.id)).toBeUndefined();
});

test('of runs that announce their files at the same moment, one that owns nothing or names a file that is there fails alone', async () => {
  const runs = [];
  for (let n = 0; n < 4; n += 1) runs.push(await acceptAndClaim(newJob()));
  const [first, zombie, thief, last] = runs as [OwnedRun, OwnedRun, OwnedRun, OwnedRun];
  const announcements = createAnnounceFiles(db);
  const file = (name: string) => ({ id: uuidv7(), name, mediaType: 'text/plain' });
  const stolen = file('there.txt');
  expect(await announcements.add({ run: first, files: [stolen] })).toBe(true);
  const answers = await Promise.allSettled([
    announcements.add({ run: first, files: [file('a "quoted", {odd} name'), file('b.txt')] }),
    announcements.add({ run: { ...zombie, workerId: uuidv7() }, files: [file('c.txt')] }),
    announcements.add({ run: thief, files: [file('d.txt'), stolen] }),
    announcements.add({ run: last, files: [file('e.txt')] }),
  ]);
  expect(answers.map((answer) => (answer.status === 'fulfilled' ? answer.value : answer.status))).toEqual([
    true,
    false,
    'rejected',
    true,
  ]);
  const { rows } = await db.query('SELECT job_id, name, state FROM files ORDER BY name');
  expect(rows).toEqual([
    { job_id: first.jobId, name: 'a "quoted", {odd} name', state: 'pending' },
    { job_id: first.jobId, name: 'b.txt', state: 'pending' },
    { job_id: last.jobId, name: 'e.txt', state: 'pending' },
    { job_id: first.jobId, name: 'there.txt', state: 'pending' },
  ]);
});

test('a cancel that arrives while a run decides to try again still ends the job', async () => {
  const run = await acceptAndClaim(newJob());
  expect(await cancelJob(db, 'default', run.jobId, 'enough')).toEqual({ type: 'requested' });
  const again: Settlement = {
    ...succeeded,
    state: 'retrying',
    outcome: 'failed',
    delayMs: 10,
    error: { code: 'x', message: 'x', retryable: true },
  };
  expect(await createSettleRuns(db).add(end(run, { settlement: again }))).toBe('cancelled');
});

test('a renewal names the runs that were taken away, those to be cancelled, and those it did not know of', async () => {
  const [taken, cancelled, unknown] = [
    await acceptAndClaim(newJob()),
    await acceptAndClaim(newJob()),
    await acceptAndClaim(newJob()),
  ];
  await db.query('UPDATE jobs SET fence = fence + 1 WHERE id = $1', [taken.jobId]);
  await cancelJob(db, 'default', cancelled.jobId, null);
  await db.query(`UPDATE jobs SET started_at = now() - interval '10 s' WHERE id = $1`, [unknown.jobId]);
  const renewal = await renewLease(db, {
    id: workerId,
    leaseMs: 5_000,
    drain: {},
    memoryBytes: 1,
    runs: [taken, cancelled],
  });
  expect(renewal).toEqual({
    isAlive: true,
    isQuiet: false,
    at: expect.any(Date),
    superseded: [key(taken)],
    cancelled: [key(cancelled)],
    unknown: [key(unknown)],
  });
});

test('the jobs of a dead worker go on, and its late renewal is told that it is dead', async () => {
  const run = await acceptAndClaim(newJob());
  const policyOf = () => ({
    crashesMax: 3,
    onCrash: 'retry' as const,
    backoff: { type: 'fixed' as const, delayMs: 1, maxMs: 1 },
  });
  expect(await reapDeadWorkers(db, policyOf, new Date())).toEqual([]);
  await db.query(`UPDATE workers SET lease_until = now() - interval '1 s'`);
  // It was still alive at the time that is asked about, however late the question is answered.
  expect(await reapDeadWorkers(db, policyOf, new Date(Date.now() - 60_000))).toEqual([]);
  expect(await reapDeadWorkers(db, policyOf, new Date())).toEqual([{ jobId: run.jobId, state: 'retrying' }]);
  expect(await createSettleRuns(db).add(end(run))).toBeUndefined();
  const renewal = await renewLease(db, {
    id: workerId,
    leaseMs: 5_000,
    drain: {},
    memoryBytes: 1,
    runs: [run],
  });
  expect(renewal).toMatchObject({ isAlive: false, superseded: [key(run)] });
  expect(await listAttempts(db, 'default', run.jobId)).toMatchObject([{ outcome: 'crashed' }]);
});

test('the database refuses rows that contradict themselves', async () => {
  const { jobId } = await acceptAndClaim(newJob());
  const refused = [
    `UPDATE jobs SET state = 'succeeded' WHERE id = '${jobId}'`,
    `UPDATE jobs SET worker_id = NULL WHERE id = '${jobId}'`,
    `UPDATE jobs SET result = '1' WHERE id = '${jobId}'`,
    `UPDATE jobs SET dispatched_at = now() WHERE id = '${jobId}'`,
    `UPDATE jobs SET attempts_used = 4 WHERE id = '${jobId}'`,
  ];
  for (const sql of refused) await expect(db.query(sql)).rejects.toMatchObject({ code: '23514' });
});
