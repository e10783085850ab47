import { z } from 'zod';
import { timingOf, type ScheduleRow, type ScheduleSummaryRow } from '#shared/db/schedules.ts';
import { jobStates } from '#shared/domain/job.ts';
import { misfires, overlaps, tickOutcomes } from '#shared/domain/misfire.ts';
import { ticksOf, type Timing } from '#shared/domain/schedule-times.ts';
import { describeTiming } from './describe-schedule.ts';

const instant = z.iso.datetime();
const nextRunsShown = 5;

/** A schedule as clients see it. */
export const scheduleSchema = z
  .object({
    key: z.string(),
    task: z.string(),
    input: z.unknown(),
    options: z.record(z.string(), z.unknown()).describe('As they were sent.'),
    cron: z.string().nullable(),
    timezone: z.string().nullable(),
    everyMs: z.int().nullable(),
    description: z.string().describe('When it is due, in words.'),
    misfire: z.enum(misfires),
    overlap: z.enum(overlaps),
    paused: z.boolean(),
    nextRuns: z.array(instant).describe('The next five; none while it is paused.'),
    lastTick: z
      .object({
        dueAt: instant,
        outcome: z
          .enum(tickOutcomes)
          .describe(
            '`job`: one was made. `overlap`: left out, because a job of the schedule had not ended. `misfire`: left out, because it was too late.',
          ),
      })
      .nullable()
      .describe('The last time that it was due.'),
    lastJob: z
      .object({ id: z.uuid(), state: z.enum(jobStates), runAt: instant })
      .nullable()
      .describe('The last job of this key, as long as it is kept.'),
    error: z
      .object({ code: z.string(), message: z.string(), at: instant })
      .nullable()
      .describe('Why no job could be made. It is tried again every minute; setting the schedule clears it.'),
    createdAt: instant,
    updatedAt: instant,
    links: z.object({ self: z.string(), trigger: z.string() }),
  })
  .meta({ id: 'Schedule' });

/** A schedule in a list: without what may be large or takes time. */
export const scheduleSummarySchema = scheduleSchema
  .omit({ input: true, options: true, nextRuns: true })
  .extend({ nextRunAt: instant.nullable().describe('Null while it is paused.') })
  .meta({ id: 'ScheduleSummary' });

export function presentSchedule(row: ScheduleRow): z.input<typeof scheduleSchema> {
  return {
    ...presentCommon(row),
    input: row.input,
    options: row.options,
    nextRuns: listNextRuns(row, nextRunsShown),
  };
}

export function presentScheduleSummary(row: ScheduleSummaryRow): z.input<typeof scheduleSummarySchema> {
  return { ...presentCommon(row), nextRunAt: listNextRuns(row, 1)[0] ?? null };
}

function presentCommon(row: ScheduleSummaryRow) {
  const path = `/v1/schedules/${encodeURIComponent(row.key)}`;
  return {
    key: row.key,
    task: row.task,
    cron: row.cron,
    timezone: row.timezone,
    everyMs: row.every_ms,
    description: describeTiming(timingOf(row)),
    misfire: row.misfire,
    overlap: row.overlap,
    paused: row.is_paused,
    lastTick:
      row.last_tick_at === null || row.last_outcome === null
        ? null
        : { dueAt: row.last_tick_at.toISOString(), outcome: row.last_outcome },
    lastJob:
      row.last_job === null ? null : { ...row.last_job, runAt: new Date(row.last_job.runAt).toISOString() },
    error: row.error,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    links: { self: path, trigger: `${path}/trigger` },
  };
}

function listNextRuns(row: ScheduleSummaryRow, count: number): string[] {
  if (row.is_paused) return [];
  const timing: Timing = timingOf(row);
  const ticks = ticksOf(timing);
  const runs: string[] = [];
  let after = row.now;
  while (runs.length < count) {
    const next = ticks.next(after);
    if (next === undefined) break;
    runs.push(next.toISOString());
    after = next;
  }
  return runs;
}
