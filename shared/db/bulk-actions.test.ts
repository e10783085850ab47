/** What bulk actions do to a page, beside cancelling it; bulk-runs.test.ts has the pages. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { insertJob, type InsertedJob } from '#test/support/insert-job.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { isFinal, jobStates } from '../domain/job.ts';
import { uuidv7 } from '../ids.ts';
import type { BulkEffects, TaskRules } from './bulk-actions.ts';
import {
  bulkErrorsMax,
  openBulkRun,
  stepBulkRun,
  type BulkAction,
  type BulkPosition,
  type BulkRequest,
} from './bulk-runs.ts';
import { readClock } from './clock.ts';
import { deleteJobs } from './delete-jobs.ts';
import { deleteFile, insertFile } from './files.ts';
import { createDb, type Db } from './pool.ts';
import { replayJobs } from './replay-jobs.ts';
import { retryJobs } from './retry-jobs.ts';
import { putSchedule } from './schedules.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 10, timeoutMs: 5_000, name: 'test' });
  await db.query(`INSERT INTO tenants (id) VALUES ('other') ON CONFLICT DO NOTHING`);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const filesOf = (input: unknown) => (input as { files?: string[] }).files ?? [];
const rules: TaskRules = {
  findFiles: (task, input) => (task === 'gone' ? undefined : filesOf(input)),
  makeAgain: ({ id, tenant_id: tenantId, task, input }) =>
    task === 'gone'
      ? { jobId: id, code: 'unknown-task', message: 'gone' }
      : newJob({ tenantId, task, input, inputFiles: filesOf(input), options: { replayOf: id } }),
};

async function start(type: BulkAction['type']): Promise<BulkRequest> {
  const asOf = await readClock(db);
  const workerId = uuidv7();
  const jobId = await insertJob(db, { state: 'active', queue: 'bulk', startedAt: new Date(), workerId });
  await db.query('UPDATE jobs SET created_at = clock_timestamp() WHERE id = $1', [jobId]);
  const action = { type, reason: null };
  return { tenantId: 'default', jobId, fence: 0, workerId, action, terms: [], asOf, rules };
}

async function run(type: BulkAction['type']): Promise<{ at: BulkPosition; effects: BulkEffects[] }> {
  const request = await start(type);
  let at = await openBulkRun(db, 'default', request.jobId);
  const effects: BulkEffects[] = [];
  while (!at.isDone) {
    const stepped = await stepBulkRun(db, request, at);
    at = stepped.at;
    effects.push(stepped.effects);
  }
  return { at, effects };
}

async function upload(tenantId = 'default'): Promise<string> {
  const id = uuidv7();
  const file = { id, name: 'a', mediaType: 'text/plain', sizeBytes: 1, sha256: '00'.repeat(32) };
  await insertFile(db, tenantId, { ...file, retentionMs: 60_000 }, null);
  return id;
}

const failed: InsertedJob = {
  state: 'failed',
  error: { code: 'task-failed', message: 'm', retryable: true },
};

async function insertPurged(): Promise<string> {
  const id = await insertJob(db, failed);
  await db.query(`UPDATE jobs SET purged_at = now() WHERE id = $1`, [id]);
  return id;
}

const others = async () =>
  (await db.query(`SELECT to_jsonb(j) FROM jobs j WHERE tenant_id = 'other' ORDER BY id`)).rows;

const byId = (errors: BulkPosition['errors']) =>
  Object.fromEntries(errors.map(({ jobId, code }) => [jobId, code]));

test('a retry queues what failed, with its files, and says of the others why not', async () => {
  const [file, deleted, foreign] = [await upload(), await upload(), await upload('other')];
  await deleteFile(db, 'default', deleted);
  const plain = await insertJob(db, failed);
  const withFile = await insertJob(db, { ...failed, input: { files: [file] } });
  const without = await insertJob(db, { ...failed, input: { files: [file, deleted] } });
  const withForeign = await insertJob(db, { ...failed, input: { files: [foreign] } });
  const [gone, purged] = [await insertJob(db, { ...failed, task: 'gone' }), await insertPurged()];
  for (const state of jobStates.filter((state) => state !== 'failed')) await insertJob(db, { state });
  await insertJob(db, { ...failed, tenantId: 'other' });
  await db.query(`UPDATE jobs SET options = '{"startWithinMs": 60000}', attempts_used = 3 WHERE id = $1`, [
    plain,
  ]);
  const before = await others();

  const { at, effects } = await run('retry');
  expect(at).toMatchObject({ matched: 13, done: 2, skipped: 7, failed: 4 });
  expect(byId(at.errors)).toEqual({
    [without]: 'input-missing',
    [withForeign]: 'input-missing',
    [gone]: 'unknown-task',
    [purged]: 'input-expired',
  });
  expect(effects).toEqual([{ queued: 2 }]);
  const { rows } = await db.query(
    `SELECT id, state, fence, error, attempts_used, dispatched_at, start_before - run_at AS within FROM jobs WHERE id = ANY($1) ORDER BY id`,
    [[plain, withFile]],
  );
  const queued = { state: 'queued', fence: 1, error: null, attempts_used: 0, dispatched_at: null };
  expect(rows).toMatchObject([
    { id: plain, ...queued, within: { minutes: 1 } },
    { id: withFile, ...queued, within: null },
  ]);
  expect((await db.query('SELECT job_id, file_id FROM job_inputs')).rows).toEqual([
    { job_id: withFile, file_id: file },
  ]);
  expect(await deleteFile(db, 'default', file)).toBe('in-use');
  expect((await db.query(`SELECT job_id FROM events WHERE data ? 'retry' ORDER BY job_id`)).rows).toEqual([
    { job_id: plain },
    { job_id: withFile },
  ]);
  expect(await others()).toEqual(before);
});

test('a retry takes unique keys back, once each, and not from a job that is alive', async () => {
  const keyed = async (job: InsertedJob, key: string) => {
    const id = await insertJob(db, job);
    await db.query('UPDATE jobs SET options = $2 WHERE id = $1', [id, { uniqueKey: { key } }]);
    return id;
  };
  const [first, second] = [await keyed(failed, 'a'), await keyed(failed, 'a')];
  const late = await keyed(failed, 'b');
  const alive = await keyed({ state: 'queued' }, 'b');
  await db.query(
    `INSERT INTO unique_keys (tenant_id, task, key, job_id, until) SELECT 'default', task, 'b', id, 'finished' FROM jobs WHERE id = $1`,
    [alive],
  );
  const { at } = await run('retry');
  expect(at).toMatchObject({ done: 1, failed: 2 });
  expect(byId(at.errors)).toMatchObject({ [late]: 'unique-key-held' });
  const { rows } = await db.query<{ key: string; job_id: string; state: string }>(
    'SELECT u.key, u.job_id, j.state FROM unique_keys u JOIN jobs j ON j.id = u.job_id ORDER BY u.key',
  );
  expect(rows).toEqual([
    { key: 'a', job_id: expect.stringMatching(`${first}|${second}`) as unknown, state: 'queued' },
    { key: 'b', job_id: alive, state: 'queued' },
  ]);
});

test('what another job waits for is not deleted', async () => {
  const [ended, waiting] = [
    await insertJob(db, { state: 'succeeded' }),
    await insertJob(db, { state: 'blocked' }),
  ];
  const free = await insertJob(db, failed);
  await db.query(
    `INSERT INTO job_dependencies (child_id, parent_id, tenant_id, on_end, parent_state)
     VALUES ($1, $2, 'default', 'success', 'succeeded')`,
    [waiting, ended],
  );
  const { at } = await run('delete');
  expect(byId(at.errors)).toEqual({ [ended]: 'job-in-use' });
  expect(at).toMatchObject({ done: 1 });
  expect((await db.query('SELECT FROM jobs WHERE id = $1', [free])).rowCount).toBe(0);
});

test('a delete removes what has ended with what it made, except what others need', async () => {
  const make = async (tenantId = 'default') => {
    const id = await insertJob(db, { state: 'succeeded', tenantId });
    const file = await upload(tenantId);
    await db.query('UPDATE files SET job_id = $2 WHERE id = $1', [file, id]);
    await db.query(`INSERT INTO events (tenant_id, job_id, type) VALUES ($2, $1, 'job.succeeded')`, [
      id,
      tenantId,
    ]);
    return { id, file };
  };
  const [free, read, scheduled, foreign] = [await make(), await make(), await make(), await make('other')];
  const all = new Map<string, string>();
  for (const state of jobStates) all.set(await insertJob(db, { state }), state);
  const reader = await insertJob(db);
  await db.query(`INSERT INTO job_inputs (job_id, file_id, tenant_id) VALUES ($1, $2, 'default')`, [
    reader,
    read.file,
  ]);
  const schedule = {
    key: 's',
    task: 't',
    input: {},
    options: {},
    timing: { type: 'every', everyMs: 1_000 },
    misfire: 'skip',
    overlap: 'skip',
    isPaused: false,
    fileIds: [scheduled.file],
  } as const;
  await putSchedule(db, 'default', schedule, 10);

  const { at, effects } = await run('delete');
  expect(at).toMatchObject({ matched: 12, done: 4, skipped: 6, failed: 2 });
  expect(byId(at.errors)).toEqual({ [read.id]: 'file-in-use', [scheduled.id]: 'file-in-use' });
  expect(effects).toEqual([{ fileIds: [free.file] }]);
  const left = (await db.query<{ id: string }>(`SELECT id FROM jobs WHERE queue <> 'bulk'`)).rows.map(
    (row) => row.id,
  );
  const open = [...all].filter(([, state]) => !isFinal(state as never)).map(([id]) => id);
  expect(left.toSorted()).toEqual([read.id, scheduled.id, foreign.id, reader, ...open].toSorted());
  const kept = [read.file, scheduled.file, foreign.file].toSorted();
  expect(
    (await db.query<{ id: string }>('SELECT id FROM files ORDER BY id')).rows.map((row) => row.id),
  ).toEqual(kept);
  expect((await db.query('SELECT 1 FROM events WHERE job_id = $1', [free.id])).rowCount).toBe(0);
});

test('a replay makes one new job of each, whatever its state, with its files, and says of the others why not', async () => {
  const [file, deleted] = [await upload(), await upload()];
  await deleteFile(db, 'default', deleted);
  const made: string[] = [];
  for (const state of jobStates) made.push(await insertJob(db, { state, input: { state } }));
  const withFile = await insertJob(db, { ...failed, input: { files: [file] } });
  const without = await insertJob(db, { ...failed, input: { files: [deleted] } });
  const [gone, purged] = [await insertJob(db, { ...failed, task: 'gone' }), await insertPurged()];
  await insertJob(db, { ...failed, tenantId: 'other' });
  const before = await others();

  const { at, effects } = await run('replay');
  expect(at).toMatchObject({ matched: 12, done: 9, skipped: 0, failed: 3 });
  expect(byId(at.errors)).toEqual({
    [without]: 'input-missing',
    [gone]: 'unknown-task',
    [purged]: 'input-expired',
  });
  expect(effects).toEqual([{ queued: 9 }]);
  const { rows } = await db.query(
    `SELECT n.options->>'replayOf' AS of, n.state, n.dispatched_at, n.batch_id, n.input::jsonb = o.input::jsonb AS is_same
     FROM jobs n JOIN jobs o ON o.id::text = n.options->>'replayOf' ORDER BY o.id`,
  );
  expect(rows).toEqual(
    [...made, withFile].map((of) => ({
      of,
      state: 'queued',
      dispatched_at: null,
      batch_id: null,
      is_same: true,
    })),
  );
  expect(await deleteFile(db, 'default', file)).toBe('in-use');
  expect(await others()).toEqual(before);
});

test('several runs of a replay at the same moment make one new job of each', async () => {
  for (let n = 0; n < 120; n += 1) await insertJob(db, failed);
  const request = await start('replay');
  let at = await openBulkRun(db, 'default', request.jobId);
  let pages = 0;
  while (!at.isDone) {
    const from = at;
    const looks = await Promise.all([1, 2, 3].map(() => stepBulkRun(db, request, from)));
    at = looks[0]?.at ?? at;
    for (const look of looks) expect(look.at).toEqual(at);
    pages += 1;
  }
  expect(pages).toBe(3);
  expect(at).toMatchObject({ matched: 120, done: 120, skipped: 0, failed: 0 });
  const { rows } = await db.query(
    `SELECT count(*) AS made, count(DISTINCT options->>'replayOf') AS of FROM jobs WHERE options ? 'replayOf'`,
  );
  expect(rows).toEqual([{ made: 120, of: 120 }]);
});

test.each(['retry', 'delete', 'replay'] as const)(
  'a run of a %s that does not own the job any more does nothing',
  async (type) => {
    await insertJob(db, failed);
    const request = await start(type);
    const from = await openBulkRun(db, 'default', request.jobId);
    await db.query('UPDATE jobs SET fence = fence + 1 WHERE id = $1', [request.jobId]);
    const before = (await db.query('SELECT to_jsonb(j) FROM jobs j ORDER BY id')).rows;
    await expect(stepBulkRun(db, request, from)).rejects.toThrow('does not own');
    expect((await db.query('SELECT to_jsonb(j) FROM jobs j ORDER BY id')).rows).toEqual(before);
  },
);

test('named by another tenant, jobs and files are not there', async () => {
  const file = await upload();
  const input = { files: [file] };
  const ids = [await insertJob(db, failed), await insertJob(db, { state: 'succeeded' })];
  const own = await insertJob(db, { ...failed, tenantId: 'other', input });
  const before = (await db.query('SELECT to_jsonb(j) FROM jobs j ORDER BY id')).rows;
  for (const act of [
    () => retryJobs(db, 'other', ids, rules.findFiles),
    () => deleteJobs(db, 'other', ids),
    () => replayJobs(db, 'other', ids, rules.makeAgain),
  ])
    expect(await act()).toMatchObject({ done: 0, errors: [] });
  const missing = { done: 0, errors: [{ jobId: own, code: 'input-missing' }] };
  expect(await retryJobs(db, 'other', [own], rules.findFiles)).toMatchObject(missing);
  expect(await replayJobs(db, 'other', [own], rules.makeAgain)).toMatchObject(missing);
  expect((await db.query('SELECT to_jsonb(j) FROM jobs j ORDER BY id')).rows).toEqual(before);
});

test('all that fail are counted, and the first of them are named', async () => {
  for (let n = 0; n < bulkErrorsMax + 20; n += 1) await insertJob(db, { ...failed, task: 'gone' });
  const { at } = await run('retry');
  expect(at).toMatchObject({ done: 0, skipped: 0, failed: bulkErrorsMax + 20 });
  expect(at.errors).toHaveLength(bulkErrorsMax);
});
