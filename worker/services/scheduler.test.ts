import { Client } from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { deleteFile, insertFile } from '#shared/db/files.ts';
import { ensureQueues } from '#shared/db/feed-queues.ts';
import { createDb, createHotDb, type Db } from '#shared/db/pool.ts';
import { pruneFiles, purgeJobs } from '#shared/db/retention.ts';
import { errorRetryMs, pruneTicks, unknownTaskGraceMs } from '#shared/db/schedule-ticks.ts';
import { deleteSchedule, findSchedule, putSchedule, type NewSchedule } from '#shared/db/schedules.ts';
import { misfireGraceMs, misfireJobsMax } from '#shared/domain/misfire.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createLogger, type Logger } from '#shared/log.ts';
import { defineTask, type TaskDefinition } from '#shared/tasks/define-task.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { createStandingPool } from '#test/support/standing-still.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createBacklogGate } from '../backlog-gate.ts';
import { createScheduler, type Scheduler } from './scheduler.ts';

const minuteMs = 60_000;
const tenantId = 'default';

const ping = defineTask({
  name: 'test.ping',
  title: 'Ping',
  description: 'Takes a number.',
  queue: 'q',
  input: z.strictObject({ n: z.int().optional() }),
  output: z.object({}),
  example: {},
});

let world: World;
let db: Db;
let log: Logger;
let scheduler: Scheduler;

beforeEach(async () => {
  world = await createWorld();
  // As in a worker.
  db = createHotDb({ url: world.databaseUrl, size: 4, timeoutMs: 20_000, name: 'scheduler-test' });
  log = createLogger({ service: 'test', level: 'silent' });
  await ensureQueues(db, ['q']);
  scheduler = schedulerOf(db);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

function schedulerOf(
  pool: Db,
  options: {
    definitions?: readonly TaskDefinition[];
    backlogMax?: number;
    waitingPerTenantMax?: number;
    onMade?: () => void;
    log?: Logger;
  } = {},
): Scheduler {
  const { definitions = [ping] } = options;
  const tasks = new Map(definitions.map((definition) => [definition.name, definition]));
  return createScheduler({
    db: pool,
    definitionOf: (name) => tasks.get(name),
    tasks: [...tasks.keys()],
    jobRetentionMs: 60_000,
    waitingPerTenantMax: options.waitingPerTenantMax ?? 0,
    isBacklogFull: createBacklogGate({
      db: pool,
      backlogMax: options.backlogMax ?? 1_000,
      log: options.log ?? log,
    }),
    onMade: options.onMade ?? (() => {}),
    log: options.log ?? log,
  });
}

async function put(fields: Partial<NewSchedule> = {}): Promise<NewSchedule> {
  const schedule: NewSchedule = {
    key: 's',
    task: 'test.ping',
    input: { n: 1 },
    options: {},
    timing: { type: 'every', everyMs: 10 * minuteMs },
    misfire: 'run-once',
    overlap: 'allow',
    isPaused: false,
    fileIds: [],
    ...fields,
  };
  expect(await putSchedule(db, tenantId, schedule, 1_000)).toMatch(/^(created|changed)$/);
  return schedule;
}

/**
 * As if no scheduler had been there for so long. An interval of ten minutes is then due five minutes ago, and every ten
 * minutes before that.
 */
async function beDown(downMs: number, key = 's', lastDueMs = 5 * minuteMs): Promise<void> {
  await db.query(
    `UPDATE schedules SET decided_until = now() - $2 * interval '1 ms', next_due_at = now() - interval '1 ms',
       anchor_at = date_trunc('milliseconds', now()) - $3 * interval '1 ms' - 1000 * every_ms * interval '1 ms' WHERE key = $1`,
    [key, downMs, lastDueMs],
  );
}

interface MadeJob {
  readonly id: string;
  readonly key: string;
  readonly state: string;
  readonly dueMs: number;
  readonly agoMs: number;
  readonly input: unknown;
}

async function listJobs(): Promise<MadeJob[]> {
  const { rows } = await db.query<MadeJob>(
    `SELECT id, schedule_key AS key, state, input, (extract(epoch FROM run_at) * 1000)::float8 AS "dueMs",
       (extract(epoch FROM created_at - run_at) * 1000)::float8 AS "agoMs" FROM jobs WHERE schedule_key IS NOT NULL ORDER BY id`,
  );
  return rows;
}

const find = (key = 's') => findSchedule(db, tenantId, key);

async function finishJobs(): Promise<void> {
  await db.query(`UPDATE jobs SET state = 'cancelled', fence = fence + 1, dispatched_at = NULL, finished_at = now()
    WHERE state = 'queued'`);
}

describe('F77: after an hour without a scheduler', () => {
  test('skip leaves out what is later than the grace', async () => {
    await put({ misfire: 'skip' });
    await beDown(60 * minuteMs);
    expect(await scheduler.tick()).toMatchObject({ schedules: 1, jobs: 0 });
    expect(await listJobs()).toEqual([]);
    expect(await find()).toMatchObject({ last_outcome: 'misfire', error: null });
  });

  test('skip makes the job that is still within the grace', async () => {
    await put({ misfire: 'skip' });
    await beDown(60 * minuteMs, 's', misfireGraceMs / 2);
    await scheduler.tick();
    expect(await listJobs()).toHaveLength(1);
    expect(await find()).toMatchObject({ last_outcome: 'job' });
  });

  test('run-once makes one job, for the last time that it was due', async () => {
    await put({ misfire: 'run-once' });
    await beDown(60 * minuteMs);
    await scheduler.tick();
    const jobs = await listJobs();
    expect(jobs.map((job) => Math.round(job.agoMs / minuteMs))).toEqual([5]);
  });

  test('run-all makes one job for each time, oldest first', async () => {
    await put({ misfire: 'run-all' });
    await beDown(60 * minuteMs);
    await scheduler.tick();
    const jobs = await listJobs();
    expect(jobs.map((job) => Math.round(job.agoMs / minuteMs))).toEqual([55, 45, 35, 25, 15, 5]);
    expect(new Set(jobs.map((job) => job.state))).toEqual(new Set(['queued']));
  });

  test('run-all makes so many jobs at most, the newest', async () => {
    await put({ misfire: 'run-all', timing: { type: 'every', everyMs: 1_000 } });
    await beDown(60 * minuteMs, 's', 500);
    const { rows } = await db.query<{ nowMs: number }>(
      'SELECT (extract(epoch FROM now()) * 1000)::float8 AS "nowMs"',
    );
    // More than one round should make in one transaction.
    const first = await scheduler.tick();
    expect(first.jobs).toBeGreaterThan(0);
    expect(first.jobs).toBeLessThan(misfireJobsMax);
    while ((await scheduler.tick()).jobs > 0);
    const due = (await listJobs()).map((job) => job.dueMs).toSorted((a, b) => a - b);
    // Those that became due meanwhile are beside the point.
    expect(due.filter((at) => at <= (rows[0]?.nowMs ?? 0)).length).toBeLessThanOrEqual(misfireJobsMax);
    expect(due.length).toBeGreaterThanOrEqual(misfireJobsMax - 20);
    expect(due).toEqual(due.map((_, index) => (due[0] ?? 0) + index * 1_000));
  });

  test('large inputs are made up for in smaller steps, and none is left out', async () => {
    const large = defineTask({ ...ping, input: z.any() });
    const roomy = schedulerOf(db, { definitions: [large] });
    await put({ misfire: 'run-all', input: { text: 'x'.repeat(1_000_000) } });
    await put({ key: 'other', misfire: 'run-all', input: { text: 'x'.repeat(1_000_000) } });
    for (const key of ['s', 'other']) await beDown(100 * minuteMs, key);
    const counts: number[] = [];
    for (;;) {
      const { jobs } = await roomy.tick();
      if (jobs === 0) break;
      counts.push(jobs);
    }
    expect(counts).toEqual([8, 8, 4]);
    const jobs = await listJobs();
    for (const key of ['s', 'other']) {
      const minutes = jobs.filter((job) => job.key === key).map((job) => Math.round(job.agoMs / minuteMs));
      expect(minutes.toSorted((a, b) => b - a)).toEqual([95, 85, 75, 65, 55, 45, 35, 25, 15, 5]);
    }
  });

  test('a cron expression is made up for like an interval', async () => {
    const timing = { type: 'cron', cron: '*/10 * * * *', timezone: 'Asia/Kathmandu' } as const;
    await put({ misfire: 'run-all', timing });
    await db.query(
      `UPDATE schedules SET decided_until = now() - interval '1 hour', next_due_at = now() - interval '1 ms'`,
    );
    await scheduler.tick();
    const jobs = await listJobs();
    expect(jobs).toHaveLength(6);
    // The zone is 5:45 ahead, which makes the minutes end in 5.
    expect(new Set(jobs.map((job) => new Date(job.dueMs).getUTCMinutes() % 10))).toEqual(new Set([5]));
  });

  test('nothing is made twice, and the schedule goes on in its rhythm', async () => {
    await put({ misfire: 'run-all' });
    await beDown(60 * minuteMs);
    await scheduler.tick();
    expect(await scheduler.tick()).toMatchObject({ schedules: 0, jobs: 0 });
    const { rows } = await db.query<{ inMs: number }>(
      `SELECT (extract(epoch FROM next_due_at - now()) * 1000)::float8 AS "inMs" FROM schedules`,
    );
    expect(Math.round((rows[0]?.inMs ?? 0) / minuteMs)).toBe(5);
  });
});

describe('overlap', () => {
  test('skip makes no job while one of the schedule has not ended, and one job of many that are due', async () => {
    await put({ misfire: 'run-all', overlap: 'skip' });
    await beDown(60 * minuteMs);
    await scheduler.tick();
    expect(await listJobs()).toHaveLength(1);
    await beDown(minuteMs, 's', 1_000);
    await scheduler.tick();
    expect(await listJobs()).toHaveLength(1);
    expect(await find()).toMatchObject({ last_outcome: 'overlap' });
    await finishJobs();
    await beDown(minuteMs, 's', 2_000);
    await scheduler.tick();
    expect(await listJobs()).toHaveLength(2);
    expect(await find()).toMatchObject({ last_outcome: 'job', last_job: { state: 'queued' } });
  });

  test('allow makes the next job whatever became of the last', async () => {
    await put({ overlap: 'allow' });
    for (const ago of [3_000, 2_000, 1_000]) {
      await beDown(minuteMs, 's', ago);
      await scheduler.tick();
    }
    expect(await listJobs()).toHaveLength(3);
  });
});

describe('F79: however many schedulers run', () => {
  test('there is one job per tick, none is left out, and no two overlap where that is forbidden', async () => {
    const keys = Array.from({ length: 20 }, (_, index) => `every-second-${index}`);
    const timing = { type: 'every', everyMs: 1_000 } as const;
    for (const key of keys) await put({ key, timing, misfire: 'run-all' });
    await put({ key: 'alone', timing, misfire: 'run-all', overlap: 'skip' });
    const pools = [0, 1, 2].map((index) =>
      createHotDb({ url: world.databaseUrl, size: 2, timeoutMs: 20_000, name: `scheduler-${index}` }),
    );
    const schedulers = pools.map((pool) => schedulerOf(pool));
    try {
      // Beside their loops, as often as they can.
      for (const one of schedulers) one.start();
      let isDone = false;
      const racing = schedulers.map(async (one) => {
        while (!isDone) await one.tick();
      });
      await waitFor(
        async () => {
          const jobs = await listJobs();
          const counts = keys.map((key) => jobs.filter((job) => job.key === key).length);
          return counts.every((count) => count >= 4) ? true : undefined;
        },
        { what: 'four ticks of each schedule' },
      );
      isDone = true;
      await Promise.all(racing);
    } finally {
      await Promise.all(schedulers.map((one) => one.stop()));
      await Promise.all(pools.map((pool) => pool.end()));
    }
    const jobs = await listJobs();
    for (const key of keys) {
      const due = jobs
        .filter((job) => job.key === key)
        .map((job) => job.dueMs)
        .toSorted((a, b) => a - b);
      const first = due[0] ?? 0;
      expect(due).toEqual(due.map((_, index) => first + index * 1_000));
    }
    expect(jobs.filter((job) => job.key === 'alone')).toHaveLength(1);
  });

  test('a tick that was made is not made again when the schedule is set back', async () => {
    await put({ misfire: 'run-all' });
    await beDown(60 * minuteMs);
    const { rows } = await db.query<{ before: unknown }>('SELECT to_jsonb(s) AS before FROM schedules s');
    await scheduler.tick();
    expect(await listJobs()).toHaveLength(6);
    // A restored row, or a clock that was set back.
    await db.query(
      `UPDATE schedules s SET decided_until = b.decided_until, next_due_at = b.next_due_at
       FROM jsonb_populate_record(NULL::schedules, $1) b`,
      [JSON.stringify(rows[0]?.before)],
    );
    expect(await scheduler.tick()).toMatchObject({ schedules: 1, jobs: 0 });
    expect(await listJobs()).toHaveLength(6);
  });

  test('ticks are forgotten after a day', async () => {
    await put({ misfire: 'run-all' });
    await beDown(60 * minuteMs);
    await scheduler.tick();
    expect(await pruneTicks(db, 100)).toBe(0);
    await db.query(`UPDATE schedule_ticks SET made_at = now() - interval '25 hours'`);
    expect(await pruneTicks(db, 4)).toBe(4);
    expect(await pruneTicks(db, 4)).toBe(2);
  });
});

describe('a schedule that is changed while it is due', () => {
  test('waits for the scheduler that has it in hand; what is made afterwards is of the new kind', async () => {
    await put({ input: { n: 1 } });
    const holder = new Client({ connectionString: world.databaseUrl });
    await holder.connect();
    try {
      await beDown(60 * minuteMs);
      // Another scheduler holds the row.
      await holder.query('BEGIN');
      await holder.query('SELECT FROM schedules FOR UPDATE');
      const changing = put({ input: { n: 2 } });
      expect(await scheduler.tick()).toMatchObject({ schedules: 0 });
      await holder.query('COMMIT');
      await changing;
    } finally {
      await holder.end();
    }
    await scheduler.tick();
    expect((await listJobs()).map((job) => job.input)).toEqual([{ n: 2 }]);
  });

  test('setting it to what it is neither puts off its next tick nor forgets one that is due', async () => {
    await put();
    await beDown(3 * minuteMs, 's', 2 * minuteMs);
    await put();
    await scheduler.tick();
    expect(await listJobs()).toHaveLength(1);
    const due = async () =>
      (await db.query<{ at: Date }>('SELECT next_due_at AS at FROM schedules')).rows[0]?.at;
    const before = await due();
    await put({ input: { n: 5 } });
    expect(await due()).toEqual(before);
  });

  test('a new time begins now: nothing is made up for', async () => {
    await put({ misfire: 'run-all' });
    await beDown(60 * minuteMs);
    await put({ misfire: 'run-all', timing: { type: 'every', everyMs: 7 * minuteMs } });
    expect(await scheduler.tick()).toMatchObject({ schedules: 0 });
  });

  test('nothing is made while it is paused, nor made up for afterwards', async () => {
    await put({ misfire: 'run-all' });
    await put({ misfire: 'run-all', isPaused: true });
    await db.query(
      `UPDATE schedules SET decided_until = now() - interval '1 hour', anchor_at = now() - interval '61 minutes'`,
    );
    expect(await scheduler.tick()).toMatchObject({ schedules: 0 });
    await put({ misfire: 'run-all' });
    expect(await scheduler.tick()).toMatchObject({ schedules: 0 });
    expect(await find()).toMatchObject({ is_paused: false });
  });

  test('a deleted one makes nothing more; its jobs stay', async () => {
    await put();
    await beDown(60 * minuteMs);
    await scheduler.tick();
    await beDown(60 * minuteMs, 's', 1_000);
    expect(await deleteSchedule(db, tenantId, 's')).toBe(true);
    expect(await scheduler.tick()).toMatchObject({ schedules: 0 });
    expect(await listJobs()).toHaveLength(1);
    expect((await db.query('SELECT FROM schedule_ticks')).rows).toEqual([]);
  });

  test('changes, deletions and ticks at the same moment end well', async () => {
    const busy = Array.from({ length: 40 }, async (_, index) => {
      const key = `k${index % 4}`;
      if (index % 10 === 9) await deleteSchedule(db, tenantId, key);
      else await put({ key, timing: { type: 'every', everyMs: 1_000 + (index % 3) }, input: { n: index } });
      await beDown(5_000, key, 1_000);
      await scheduler.tick();
    });
    await Promise.all(busy);
    const jobs = await listJobs();
    expect(new Set(jobs.map((job) => job.id)).size).toBe(jobs.length);
  });
});

describe('a schedule that can make no job', () => {
  test('shows why, is tried again, and stops no other; its ticks are not lost', async () => {
    await put({ key: 'bad', input: { n: 'one' } });
    await put({ key: 'good' });
    for (const key of ['bad', 'good']) await beDown(60 * minuteMs, key);
    expect(await scheduler.tick()).toEqual({
      schedules: 2,
      jobs: 1,
      newlyFailed: [{ schedule: 'bad', tenantId, code: 'invalid-input' }],
    });
    expect((await find('bad'))?.error).toMatchObject({
      code: 'invalid-input',
      message: expect.stringContaining('/input/n: ') as unknown,
    });
    // Later the same is no news.
    await retryNow('bad');
    expect(await scheduler.tick()).toMatchObject({ schedules: 1, jobs: 0, newlyFailed: [] });
    // A newer version takes it.
    const newer = defineTask({ ...ping, input: z.any() });
    await retryNow('bad');
    expect(await schedulerOf(db, { definitions: [newer] }).tick()).toMatchObject({ jobs: 1 });
    expect(await find('bad')).toMatchObject({ error: null, last_outcome: 'job' });
  });

  test('options over a ceiling that was lowered, and a schema that throws, are such errors, too', async () => {
    await put({ key: 'ceiling', options: { attempts: 9 } });
    await put({ key: 'throws', task: 'test.throws' });
    const lower = defineTask({ ...ping, attempts: { default: 1, max: 2 } });
    const throws = defineTask({
      ...ping,
      name: 'test.throws',
      input: z.any().refine((value: { n?: number }) => {
        if (value.n !== undefined) throw new Error('a mistake of its author');
        return true;
      }),
    });
    for (const key of ['ceiling', 'throws']) await beDown(60 * minuteMs, key);
    await schedulerOf(db, { definitions: [lower, throws] }).tick();
    expect((await find('ceiling'))?.error).toMatchObject({ code: 'invalid-input' });
    expect((await find('throws'))?.error).toMatchObject({
      code: 'internal',
      message: 'a mistake of its author',
    });
  });

  test('an unknown task is left to workers that know it for a while, then it is an error, until it is known', async () => {
    await put({ task: 'test.gone' });
    await put({ key: 'good' });
    for (const key of ['s', 'good']) await beDown(60 * minuteMs, key);
    expect(await scheduler.tick()).toMatchObject({ schedules: 1, jobs: 1 });
    expect(await find()).toMatchObject({ error: null });
    await db.query(`UPDATE schedules SET next_due_at = now() - $1 * interval '1 ms' WHERE key = 's'`, [
      unknownTaskGraceMs + 1_000,
    ]);
    expect(await scheduler.tick()).toMatchObject({ schedules: 1, jobs: 0 });
    expect((await find())?.error).toMatchObject({ code: 'unknown-task' });
    await retryNow('s');
    const known = defineTask({ ...ping, name: 'test.gone' });
    expect(await schedulerOf(db, { definitions: [known] }).tick()).toMatchObject({ jobs: 1 });
    expect(await find()).toMatchObject({ error: null });
  });

  test('data that the database refuses stop only their own schedule', async () => {
    await db.query(`ALTER TABLE jobs ADD CONSTRAINT no_unlucky CHECK (input::text NOT LIKE '%13%')`);
    await put({ key: 'unlucky', input: { n: 13 } });
    for (const key of ['a', 'b']) await put({ key });
    for (const key of ['a', 'unlucky', 'b']) await beDown(60 * minuteMs, key);
    expect(await scheduler.tick()).toMatchObject({ schedules: 3, jobs: 2 });
    expect((await listJobs()).map((job) => job.key).toSorted()).toEqual(['a', 'b']);
    const { code, message } = (await find('unlucky'))?.error ?? {};
    expect(code).toBe('internal');
    // What the user can do, and nothing of tables; that is for the log.
    expect(message).toContain('PUT it again');
    expect(message).not.toContain('no_unlucky');
    await retryNow('unlucky');
    await db.query('UPDATE schedules SET error = NULL');
    expect((await scheduler.tick()).newlyFailed).toMatchObject([
      {
        schedule: 'unlucky',
        err: { message: expect.stringContaining('"no_unlucky"') as unknown },
      },
    ]);
  });

  test('a tenant with as many jobs waiting as it may have gets none of its schedules, can read why, and the misfire policy decides afterwards', async () => {
    await db.query(`INSERT INTO tenants (id) VALUES ('other')`);
    const limited = schedulerOf(db, { waitingPerTenantMax: 3 });
    const waiting = [await insertJob(db, { queue: 'q' }), await insertJob(db, { queue: 'q' })];
    await put({ misfire: 'run-all' });
    await beDown(60 * minuteMs);
    // Six times were missed, and there is room for one of them.
    expect(await limited.tick()).toMatchObject({ jobs: 1 });
    expect(await find()).toMatchObject({ last_outcome: 'job', error: null });
    expect(await limited.tick()).toEqual({
      schedules: 1,
      jobs: 0,
      newlyFailed: [{ schedule: 's', tenantId, code: 'too-many-waiting' }],
    });
    expect((await find())?.error?.message).toContain('3 jobs waiting (WINDLASS_WAITING_PER_TENANT_MAX)');
    // The quota of one is not that of another, and schedules that need no job have no error.
    await db.query(`UPDATE schedules SET tenant_id = 'other', key = 't'`);
    await put({ misfire: 'skip' });
    await beDown(60 * minuteMs);
    await db.query(`UPDATE schedules SET next_due_at = now() - interval '1 ms'`);
    expect(await limited.tick()).toMatchObject({ schedules: 2, jobs: 3 });
    expect(await find()).toMatchObject({ last_outcome: 'misfire', error: null });
    await put({ key: 'once' });
    await beDown(60 * minuteMs, 'once');
    await db.query(`UPDATE schedules SET next_due_at = NULL WHERE key <> 'once'`);
    expect(await limited.tick()).toMatchObject({ jobs: 0 });
    expect(await find('once')).toMatchObject({ last_outcome: null, error: { code: 'too-many-waiting' } });
    // Room again: one job for all that was missed, as run-once says.
    await db.query(`UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = ANY($1)`, [waiting]);
    await retryNow('once');
    expect(await limited.tick()).toMatchObject({ jobs: 1 });
    expect(await find('once')).toMatchObject({ last_outcome: 'job', error: null });
  });

  test('what is made for one schedule of a tenant leaves less room for its next one', async () => {
    const limited = schedulerOf(db, { waitingPerTenantMax: 3 });
    for (const key of ['a', 'b', 'c', 'd']) await put({ key });
    for (const key of ['a', 'b', 'c', 'd']) await beDown(60 * minuteMs, key);
    expect(await limited.tick()).toMatchObject({ schedules: 4, jobs: 3 });
  });

  async function retryNow(key: string): Promise<void> {
    const { rows } = await db.query<{ inMs: number }>(
      `SELECT (extract(epoch FROM next_due_at - now()) * 1000)::float8 AS "inMs" FROM schedules WHERE key = $1`,
      [key],
    );
    expect(rows[0]?.inMs).toBeGreaterThan(0);
    expect(rows[0]?.inMs).toBeLessThanOrEqual(errorRetryMs);
    await db.query('UPDATE schedules SET next_due_at = now() WHERE key = $1', [key]);
  }
});

test('F78: a tick that new rules of a time zone have moved is neither made at the old time nor lost', async () => {
  const inTenMinutes = new Date(Date.now() + 10 * minuteMs);
  const cron = `${inTenMinutes.getUTCMinutes()} ${inTenMinutes.getUTCHours()} * * *`;
  await put({ timing: { type: 'cron', cron, timezone: 'UTC' } });
  // The old rules had it due now.
  await db.query(`UPDATE schedules SET next_due_at = now()`);
  expect(await scheduler.tick()).toMatchObject({ schedules: 1, jobs: 0 });
  expect(await find()).toMatchObject({ last_outcome: null });
  const { rows } = await db.query<{ at: Date }>('SELECT next_due_at AS at FROM schedules');
  expect(rows[0]?.at.getUTCMinutes()).toBe(inTenMinutes.getUTCMinutes());
});

test('while too many jobs wait nothing is made, and nothing is lost', async () => {
  await insertJob(db, { queue: 'q' });
  await put();
  await beDown(60 * minuteMs);
  const lines: string[] = [];
  const collect = pino({ level: 'warn' }, { write: (line: string) => lines.push(line) });
  const full = schedulerOf(db, { backlogMax: 1, log: collect });
  full.start();
  await waitFor(() => lines.find((line) => line.includes('too many jobs wait')), { what: 'its warning' });
  await full.stop();
  expect(await listJobs()).toEqual([]);
  let made = 0;
  const roomy = schedulerOf(db, { backlogMax: 2, onMade: () => (made += 1) });
  roomy.start();
  await waitFor(() => (made > 0 ? true : undefined), { what: 'the job' });
  await roomy.stop();
  expect(await listJobs()).toHaveLength(1);
});

test('what a schedule refers to is kept as long as the schedule', async () => {
  const plain = createDb({ url: world.databaseUrl, size: 2, timeoutMs: 5_000, name: 'test' });
  try {
    const upload = uuidv7();
    const file = { name: 'a', mediaType: 'text/plain', sizeBytes: 0, sha256: '00'.repeat(32) };
    await insertFile(plain, tenantId, { ...file, id: upload, retentionMs: 1 }, null);
    const jobId = await insertJob(plain, { state: 'succeeded' });
    const output = uuidv7();
    await plain.query(
      `INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, job_id)
       VALUES ($1, $2, 'ready', 'b', 'text/plain', 0, sha256(''), $3)`,
      [output, tenantId, jobId],
    );
    await plain.query(`UPDATE jobs SET expires_at = now() - interval '1 s'`);
    await put({ fileIds: [upload, output] });
    await plain.query(`UPDATE files SET expires_at = now() - interval '1 s' WHERE id = $1`, [upload]);

    expect(await pruneFiles(plain, 10)).toEqual([]);
    expect(await purgeJobs(plain, 10)).toEqual({ jobs: 0, fileIds: [] });
    expect(await deleteFile(plain, tenantId, upload)).toBe('in-use');
    await beDown(60 * minuteMs);
    await scheduler.tick();
    const inputs = await plain.query<{ file_id: string }>('SELECT file_id FROM job_inputs ORDER BY file_id');
    expect(inputs.rows.map((row) => row.file_id)).toEqual([upload, output].toSorted());
    await finishJobs();
    await plain.query('DELETE FROM job_inputs');

    await put({ fileIds: [output] });
    expect(await pruneFiles(plain, 10)).toEqual([upload]);
    await deleteSchedule(plain, tenantId, 's');
    expect(await purgeJobs(plain, 10)).toEqual({ jobs: 1, fileIds: [output] });
  } finally {
    await plain.end();
  }
});

test('a schedule that refers to a file that is gone is not written', async () => {
  await put({ input: { n: 1 } });
  const schedule = await put({ input: { n: 1 } });
  expect(await putSchedule(db, tenantId, { ...schedule, input: { n: 2 }, fileIds: [uuidv7()] }, 10)).toBe(
    'missing-file',
  );
  expect(await find()).toMatchObject({ input: { n: 1 } });
});

test('a tenant has so many schedules at most, however many are made at the same moment', async () => {
  const schedule = await put({ key: 'k0' });
  const answers = await Promise.all(
    Array.from({ length: 8 }, (_, index) => putSchedule(db, tenantId, { ...schedule, key: `k${index}` }, 4)),
  );
  expect(answers.filter((answer) => answer === 'created')).toHaveLength(3);
  expect(answers.filter((answer) => answer === 'too-many')).toHaveLength(4);
  // What is there can still be changed.
  expect(answers[0]).toBe('changed');
});

test('F79: two requests that make the same schedule make one', async () => {
  const schedule = await put({ key: 'other' });
  const answers = await Promise.all(
    Array.from({ length: 4 }, () => putSchedule(db, tenantId, { ...schedule, key: 'new' }, 10)),
  );
  expect(answers.toSorted()).toEqual(['changed', 'changed', 'changed', 'created']);
});

test('F44: a scheduler that stands still in the middle of a tick keeps its schedules from the others for moments only', async () => {
  await put();
  await beDown(10 * minuteMs);
  const frozen = await createStandingPool(world.databaseUrl);
  try {
    void schedulerOf(frozen.db).tick();
    await frozen.stands;
    expect(await scheduler.tick()).toMatchObject({ schedules: 0 });
    // Well below the limit of all other transactions.
    await waitFor(async () => ((await scheduler.tick()).jobs === 1 ? true : undefined), {
      what: 'the job to be made by another',
      deadlineMs: 22_000,
    });
    expect(await listJobs()).toHaveLength(1);
  } finally {
    await frozen.close();
  }
});
