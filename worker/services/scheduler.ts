/**
 * Makes the jobs of schedules when they are due (shared/db/schedule-ticks.ts says how). Every worker runs one. Nothing is
 * remembered between rounds: what is due, and what has been decided, is in Postgres.
 */
import type { Db } from '#shared/db/pool.ts';
import {
  findNextTick,
  tickSchedules,
  type DueSchedule,
  type TickDecision,
  type TickResult,
} from '#shared/db/schedule-ticks.ts';
import { timingOf } from '#shared/db/schedules.ts';
import { chooseTicks } from '#shared/domain/misfire.ts';
import { ticksOf } from '#shared/domain/schedule-times.ts';
import { uuidv7 } from '#shared/ids.ts';
import type { Logger } from '#shared/log.ts';
import type { TaskDefinition } from '#shared/tasks/define-task.ts';
import { findCeilingErrors, jobOptions } from '#shared/tasks/job-options.ts';
import { toNewJob } from '#shared/tasks/new-job.ts';
import { createLoop, type Loop } from './loop.ts';

/** A schedule that was just set is noticed within this, in ms. */
const idleMs = 500;
/** Others are working on all that is due. */
const takenMs = 50;
const batch = 100;
/**
 * Of the jobs that one schedule, and one round, makes, in bytes of input. A job counts for 16 KiB at least. What an outage has
 * left behind is made in several rounds.
 */
const scheduleBytesMax = 4 * 1024 * 1024;
const roundBytesMax = 2 * scheduleBytesMax;
const jobBytesMin = 16 * 1024;
/** Until the backlog is looked at again, in ms. */
const backlogFullMs = 5_000;

export interface Scheduler extends Loop {
  /** Decides what is due and not in other hands, at most a batch. */
  tick(): Promise<TickResult>;
}

export function createScheduler(options: {
  db: Db;
  definitionOf: (task: string) => TaskDefinition | undefined;
  tasks: readonly string[];
  jobRetentionMs: number;
  /** A tenant with so many jobs waiting gets no more; 0 for no limit. */
  waitingPerTenantMax: number;
  /** While too many jobs wait nothing is made; ticks stay due, and what is late then is a misfire. */
  isBacklogFull: () => Promise<boolean>;
  /** Jobs were made: the feeder need not sleep. */
  onMade: () => void;
  log: Logger;
}): Scheduler {
  const { db, tasks, onMade, log } = options;

  async function tick(): Promise<TickResult> {
    const { waitingPerTenantMax } = options;
    return tickSchedules(db, { tasks, limit: batch, bytesMax: roundBytesMax, waitingPerTenantMax, decide });
  }

  async function runOnce(): Promise<number> {
    const dueMs = await findNextTick(db, tasks);
    if (dueMs === undefined || dueMs > 0) return Math.min(idleMs, Math.ceil(dueMs ?? idleMs));
    if (await options.isBacklogFull()) return backlogFullMs;
    const result = await tick();
    for (const failed of result.newlyFailed) log.warn(failed, 'a schedule can make no job');
    if (result.jobs > 0) {
      log.debug({ schedules: result.schedules, jobs: result.jobs }, 'schedules made jobs');
      onMade();
    }
    return result.schedules === 0 ? takenMs : 0;
  }

  /** What a schedule holds is from another day: its task may be gone, its input too old, its code may throw. */
  function decide(schedule: DueSchedule): TickDecision {
    try {
      return decideTicks(schedule);
    } catch (err) {
      log.debug({ err, schedule: schedule.key }, 'a schedule could not be read');
      const message = err instanceof Error ? err.message : String(err);
      return { type: 'failed', error: { code: 'internal', message: message.slice(0, 1_000) } };
    }
  }

  function decideTicks(schedule: DueSchedule): TickDecision {
    const { now, decided_until: after, misfire, tenant_id: tenantId } = schedule;
    const definition = options.definitionOf(schedule.task);
    if (definition === undefined) {
      const message = `There is no task "${schedule.task}" any more.`;
      return { type: 'failed', error: { code: 'unknown-task', message } };
    }
    const checked = checkJob(schedule, definition);
    if (checked.type === 'failed') return checked;

    const ticks = ticksOf(timingOf(schedule));
    const last = ticks.newest({ after, until: now, count: 1 }).at(-1);
    const undue = { jobs: [], bytes: 0, decidedUntil: now, nextDueAt: ticks.next(now) ?? null };
    if (last === undefined) return { type: 'decided', ...undue, lastTick: undefined };
    const chosen = chooseTicks(ticks, { after, now, misfire });
    if (chosen.length === 0 || schedule.is_busy) {
      const outcome = chosen.length === 0 ? 'misfire' : 'overlap';
      return { type: 'decided', ...undue, lastTick: { at: last, outcome } };
    }
    if (schedule.room < 1) {
      const message =
        `This tenant may have ${options.waitingPerTenantMax} jobs waiting (WINDLASS_WAITING_PER_TENANT_MAX), and it has. ` +
        'Its schedules make jobs again when some of these have run or were cancelled.';
      return { type: 'failed', error: { code: 'too-many-waiting', message } };
    }
    const wanted = schedule.overlap === 'skip' ? chosen.slice(-1) : chosen;
    const jobBytes = Math.max(jobBytesMin, JSON.stringify(schedule.input).length);
    const count = Math.min(Math.max(1, Math.floor(scheduleBytesMax / jobBytes)), schedule.room);
    const made = wanted.slice(0, count);
    const jobs = made.map((dueAt, index) => {
      const job = toNewJob(definition, {
        tenantId,
        input: schedule.input,
        options: checked.options,
        inputFiles: schedule.file_ids,
        retentionMs: options.jobRetentionMs,
      });
      return {
        dueAt,
        job: {
          ...job,
          // In the order of their ticks, although they are made in one moment.
          id: uuidv7(Date.now() - (made.length - 1 - index)),
          runAt: new Date(dueAt.getTime() + job.delayMs).toISOString(),
          scheduleKey: schedule.key,
        },
      };
    });
    // The next round goes on after the last of these.
    const decidedUntil = made.length < wanted.length ? (made.at(-1) ?? now) : now;
    return {
      type: 'decided',
      jobs,
      bytes: made.length * jobBytes,
      decidedUntil,
      nextDueAt: ticks.next(decidedUntil) ?? null,
      lastTick: { at: decidedUntil < now ? decidedUntil : last, outcome: 'job' },
    };
  }

  return { ...createLoop({ name: 'scheduler', runOnce, log }), tick };
}

type Checked =
  | { readonly type: 'checked'; readonly options: ReturnType<typeof jobOptions.parse> }
  | Extract<TickDecision, { type: 'failed' }>;

/** The checks that a job passes when a client sends it. */
function checkJob(schedule: DueSchedule, definition: TaskDefinition): Checked {
  const input = definition.input.safeParse(schedule.input);
  const options = jobOptions.safeParse(schedule.options);
  const issues = [
    ...(input.error?.issues ?? []).map((issue) => `/${['input', ...issue.path].join('/')}: ${issue.message}`),
    ...(options.error?.issues ?? []).map(
      (issue) => `/${['options', ...issue.path].join('/')}: ${issue.message}`,
    ),
    ...(options.success
      ? findCeilingErrors(options.data, definition).map(({ pointer, detail }) => `${pointer}: ${detail}`)
      : []),
  ];
  if (options.success && issues.length === 0) return { type: 'checked', options: options.data };
  const message = `The task takes it no longer. ${issues.slice(0, 5).join('; ')}`;
  return { type: 'failed', error: { code: 'invalid-input', message: message.slice(0, 1_000) } };
}
