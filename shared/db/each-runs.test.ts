import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { insertJob } from '#test/support/insert-job.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { deleteJob } from './delete-job.ts';
import { deleteJobs } from './delete-jobs.ts';
import { releaseStranded } from './dependencies.ts';
import {
  EachSupersededError,
  lookAtItems,
  lookAtNextSteps,
  lookAtSteps,
  makeItems,
  openEachRun,
  readItemResults,
  type EachPage,
  type EachPosition,
  type NewItem,
} from './each-runs.ts';
import { createDb, type Db } from './pool.ts';
import { purgeJobs } from './retention.ts';
import { settleRuns } from './settle-runs.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 10, timeoutMs: 5_000, name: 'test' });
  await db.query(`INSERT INTO queues (name) VALUES ('q'), ('workflow') ON CONFLICT DO NOTHING`);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const tenantId = 'default';
const workerId = '0199d7a3-1f5c-7cc0-8000-000000000009';
const firstId = '00000000-0000-0000-0000-000000000000';

/** The job of a step, which is being run. */
async function startEach(previous: string | null = null): Promise<string> {
  return insertJob(db, {
    task: 'workflow.each',
    queue: 'workflow',
    state: 'active',
    startedAt: new Date(),
    workerId,
    input: { previous },
  });
}

function itemsOf(eachId: string, from: number, count: number, input: (index: number) => unknown): NewItem[] {
  return Array.from({ length: count }, (_, n) => ({
    index: from + n,
    misfit: undefined,
    job: newJob({ input: input(from + n), item: { eachId, index: from + n } }),
  }));
}

interface Made {
  readonly eachId: string;
  readonly page: EachPage;
  readonly start: EachPosition;
}

/** A page of items that is about to be made. */
async function prepare(
  count: number,
  options: { previous?: string; total?: number; input?: (index: number) => unknown } = {},
): Promise<Made> {
  const { previous = null, total = count, input = (index: number) => ({ n: index }) } = options;
  const eachId = await startEach(previous);
  const page = {
    jobId: eachId,
    tenantId,
    fence: 0,
    workerId,
    previous,
    total,
    items: itemsOf(eachId, 0, count, input),
  };
  return { eachId, page, start: await openEachRun(db, tenantId, eachId) };
}

async function jobsOf(eachId: string): Promise<string[]> {
  const { rows } = await db.query<{ job_id: string }>(
    'SELECT job_id FROM each_items WHERE each_id = $1 ORDER BY index',
    [eachId],
  );
  return rows.map((row) => row.job_id);
}

async function countMade(): Promise<number> {
  return (await db.query('SELECT FROM jobs WHERE each_id IS NOT NULL')).rowCount ?? 0;
}

/** As a worker would. */
async function end(ids: readonly string[], state: 'succeeded' | 'failed' | 'cancelled'): Promise<void> {
  await db.query(
    `UPDATE jobs SET state = $2::job_state, worker_id = NULL, finished_at = now(), dispatched_at = NULL, expires_at = now() - interval '1 s',
       result = CASE WHEN $2::job_state = 'succeeded' THEN json_build_object('was', input) END WHERE id = ANY($1)`,
    [ids, state],
  );
}

async function wait(eachId: string): Promise<void> {
  await db.query(`UPDATE jobs SET state = 'blocked', worker_id = NULL WHERE id = $1`, [eachId]);
}

async function stateOf(id: string): Promise<string | undefined> {
  const { rows } = await db.query<{ state: string }>('SELECT state FROM jobs WHERE id = $1', [id]);
  return rows[0]?.state;
}

describe('making items', () => {
  test('F43: of several runs that make the same page one does, and the others are told where the step is', async () => {
    const { page, start, eachId } = await prepare(3, { total: 5 });
    const again = { ...page, items: itemsOf(eachId, 0, 3, (n) => ({ n })) };
    const looks = await Promise.all([page, again, page].map((one) => makeItems(db, one, start)));
    expect(looks).toEqual(looks.map(() => ({ nextIndex: 3, total: 5 })));
    expect(await countMade()).toBe(3);
    expect(await openEachRun(db, tenantId, eachId)).toEqual({ nextIndex: 3, total: 5 });
  });

  test('a run that lost its job makes nothing, also when it loses it at the last moment', async () => {
    const { page, start, eachId } = await prepare(3);
    await expect(makeItems(db, { ...page, fence: 7 }, start)).rejects.toThrow(EachSupersededError);
    await expect(makeItems(db, { ...page, tenantId: 'other' }, start)).rejects.toThrow(EachSupersededError);
    // A claim that a crash of Postgres forgot is made again, by another worker and with the same fence.
    const another = { ...page, workerId: firstId };
    await expect(makeItems(db, another, start)).rejects.toThrow(EachSupersededError);

    // It waits for a row that is held until its job has ended.
    const holder = await db.connect();
    try {
      await holder.query('BEGIN');
      await holder.query(`SELECT FROM jobs WHERE id = $1 FOR UPDATE`, [eachId]);
      const late = makeItems(db, page, start);
      late.catch(() => {});
      await expect
        .poll(async () => (await holder.query('SELECT FROM pg_locks WHERE NOT granted')).rowCount)
        .toBeGreaterThan(0);
      await holder.query(
        `UPDATE jobs SET state = 'cancelled', worker_id = NULL, fence = fence + 1, finished_at = now() WHERE id = $1`,
        [eachId],
      );
      await holder.query('COMMIT');
      await expect(late).rejects.toThrow(EachSupersededError);
    } finally {
      holder.release();
    }
    expect(await countMade()).toBe(0);
  });

  test('an item whose file is not there, and one that does not fit, are jobs that have failed', async () => {
    const { page, start, eachId } = await prepare(3);
    const [good, fileless, misfit] = page.items as [NewItem, NewItem, NewItem];
    const missing = '0199d7a3-1f5c-7cc0-8000-000000000000';
    const error = { code: 'task-input', message: 'at "/n"', retryable: false };
    const items = [
      good,
      { ...fileless, job: { ...fileless.job, inputFiles: [missing] } },
      { ...misfit, misfit: error },
    ];
    await makeItems(db, { ...page, items }, start);
    const { rows } = await db.query(
      `SELECT state, error->>'code' AS code FROM jobs WHERE each_id = $1 ORDER BY each_index`,
      [eachId],
    );
    expect(rows).toEqual([
      { state: 'queued', code: null },
      { state: 'failed', code: 'input-missing' },
      { state: 'failed', code: 'task-input' },
    ]);
  });

  test('after retries, items that have succeeded keep their jobs, if their input is still the same', async () => {
    const first = await prepare(4);
    await makeItems(db, first.page, first.start);
    const made = await jobsOf(first.eachId);
    await end([made[0] ?? '', made[1] ?? '', made[3] ?? ''], 'succeeded');
    await end([made[2] ?? '', first.eachId], 'failed');
    // A retry that was cancelled before it had come to any item.
    const second = await startEach(first.eachId);
    await end([second], 'cancelled');
    await db.query('UPDATE jobs SET purged_at = now() WHERE id = $1', [made[3]]);

    const third = await prepare(4, {
      previous: second,
      input: (n) => (n === 1 ? { n: 'another' } : { n }),
    });
    await makeItems(db, third.page, third.start);
    const again = await jobsOf(third.eachId);
    expect(again.map((id) => made.includes(id))).toEqual([true, false, false, false]);
    expect(again[0]).toBe(made[0]);
  });
});

describe('a step', () => {
  test('goes on when its last item has ended, and nobody else lets it go on', async () => {
    const { page, start, eachId } = await prepare(2);
    await makeItems(db, page, start);
    await wait(eachId);
    const [first = '', second = ''] = await jobsOf(eachId);
    await end([first], 'succeeded');
    expect(await lookAtSteps(db, [eachId])).toMatchObject({ lookedAt: [eachId], resumed: [] });
    await db.query('UPDATE jobs SET workflow_id = gen_random_uuid() WHERE id = $1', [eachId]);
    expect(await releaseStranded(db, firstId, 10)).toEqual({ next: undefined, released: 0 });
    expect(await lookAtItems(db, tenantId, eachId)).toMatchObject({ isOpen: true });
    await end([second], 'failed');
    const looks = await Promise.all([lookAtSteps(db, [eachId]), lookAtNextSteps(db, firstId, 10)]);
    expect(looks.flatMap(({ resumed }) => resumed)).toEqual([eachId]);
    expect(await stateOf(eachId)).toBe('queued');
    expect(await lookAtItems(db, tenantId, eachId)).toMatchObject({
      isOpen: false,
      unsuccessful: 1,
      first: { index: 1, jobId: second, state: 'failed' },
    });
    expect(await readItemResults(db, tenantId, eachId)).toEqual([{ was: { n: 0 } }, null]);
    expect(await readItemResults(db, 'other', eachId)).toEqual([]);
  });

  test('that has ended takes its items with it, and is looked at no more', async () => {
    const { page, start, eachId } = await prepare(1_100);
    await makeItems(db, page, start);
    const [running = ''] = await jobsOf(eachId);
    await db.query(`UPDATE jobs SET state = 'active', worker_id = gen_random_uuid() WHERE id = $1`, [
      running,
    ]);
    await end([eachId], 'cancelled');
    const looks = [];
    for (let n = 0; n < 4; n += 1) looks.push(await lookAtNextSteps(db, firstId, 10));
    expect(looks.map((look) => look.ended.length + look.asked.length)).toEqual([500, 500, 100, 0]);
    expect(looks.flatMap((look) => look.asked)).toEqual([running]);
    // What runs may take a while to end.
    expect(looks.at(-1)?.lookedAt).toEqual([eachId]);
    await end([running], 'cancelled');
    expect((await lookAtNextSteps(db, firstId, 10)).lookedAt).toEqual([eachId]);
    expect((await lookAtNextSteps(db, firstId, 10)).lookedAt).toEqual([]);
    const { rowCount } = await db.query(`SELECT FROM events WHERE type = 'job.cancelled' AND job_id <> $1`, [
      eachId,
    ]);
    expect(rowCount).toBe(1_099);
  });

  test('that has ended leaves an item alone that somebody retries afterwards', async () => {
    const { page, start, eachId } = await prepare(1);
    await makeItems(db, page, start);
    const [item = ''] = await jobsOf(eachId);
    await end([item, eachId], 'failed');
    await lookAtNextSteps(db, firstId, 10);
    await db.query(`UPDATE jobs SET state = 'queued', finished_at = NULL, expires_at = NULL WHERE id = $1`, [
      item,
    ]);
    await lookAtNextSteps(db, firstId, 10);
    expect(await stateOf(item)).toBe('queued');
  });
});

describe('a step that begins to wait', () => {
  const waiting = { state: 'blocked', attemptsUsed: 0, crashes: 0, delayMs: 0, error: undefined } as const;
  const settle = (jobId: string) =>
    settleRuns(db, [
      {
        jobId,
        fence: 0,
        workerId,
        settlement: { ...waiting, outcome: 'snoozed' },
        result: null,
        outputs: [],
      },
    ]);

  test('has no worker and has used no attempt', async () => {
    const eachId = await startEach();
    expect(await settle(eachId)).toEqual(['blocked']);
    const { rows } = await db.query('SELECT worker_id, finished_at, attempts_used FROM jobs WHERE id = $1', [
      eachId,
    ]);
    expect(rows).toEqual([{ worker_id: null, finished_at: null, attempts_used: 0 }]);
    expect(await settle(eachId)).toEqual([undefined]);
  });

  test('is cancelled when that was asked for in the last moment', async () => {
    const eachId = await startEach();
    await db.query('UPDATE jobs SET cancel_requested_at = now() WHERE id = $1', [eachId]);
    expect(await settle(eachId)).toEqual(['cancelled']);
    expect(await stateOf(eachId)).toBe('cancelled');
  });
});

describe('an item', () => {
  test('is kept as long as its step', async () => {
    const { page, start, eachId } = await prepare(1);
    await makeItems(db, page, start);
    const [item = ''] = await jobsOf(eachId);
    await end([item], 'succeeded');
    expect(await purgeJobs(db, 10)).toMatchObject({ jobs: 0 });
    await end([eachId], 'succeeded');
    expect(await purgeJobs(db, 10)).toMatchObject({ jobs: 1 });
    expect(await purgeJobs(db, 10)).toMatchObject({ jobs: 1 });
    const { rowCount } = await db.query('SELECT FROM jobs WHERE purged_at IS NULL');
    expect(rowCount).toBe(0);
  });

  test('cannot be deleted before its step has ended, nor the step before its items', async () => {
    const { page, start, eachId } = await prepare(2);
    await makeItems(db, page, start);
    const [first = '', second = ''] = await jobsOf(eachId);
    await end([first], 'succeeded');
    expect(await deleteJob(db, tenantId, first)).toEqual({ type: 'awaited' });
    expect(await deleteJobs(db, tenantId, [first])).toMatchObject({
      done: 0,
      errors: [{ code: 'job-in-use' }],
    });
    await end([eachId], 'cancelled');
    expect(await deleteJob(db, tenantId, eachId)).toEqual({ type: 'awaited' });
    expect(await deleteJobs(db, tenantId, [eachId])).toMatchObject({
      done: 0,
      errors: [{ code: 'job-in-use' }],
    });
    await end([second], 'cancelled');
    expect(await deleteJob(db, tenantId, first)).toMatchObject({ type: 'deleted' });
    expect(await deleteJobs(db, tenantId, [eachId])).toMatchObject({ done: 1 });
  });

  test('whose row somebody took away is told of', async () => {
    const { page, start, eachId } = await prepare(2);
    await makeItems(db, page, start);
    const [first = '', second = ''] = await jobsOf(eachId);
    await end([first], 'succeeded');
    await db.query('DELETE FROM jobs WHERE id = $1', [second]);
    await wait(eachId);
    expect((await lookAtSteps(db, [eachId])).resumed).toEqual([eachId]);
    expect(await lookAtItems(db, tenantId, eachId)).toMatchObject({
      unsuccessful: 1,
      first: { jobId: second, state: null },
    });
    expect(await readItemResults(db, tenantId, eachId)).toEqual([{ was: { n: 0 } }, null]);
  });
});
