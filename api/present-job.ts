import { z } from 'zod';
import type { AttemptRow, JobRow } from '#shared/db/jobs.ts';
import type { DependencyRow } from '#shared/db/dependencies.ts';
import type { FileRow } from '#shared/db/files.ts';
import { isFinal, jobStates } from '#shared/domain/job.ts';
import { readDependsOn } from '#shared/tasks/job-options.ts';
import { fileSchema, presentFile } from './present-file.ts';

const instant = z.iso.datetime();
const errorSchema = z.object({ code: z.string(), message: z.string(), retryable: z.boolean() });

/** A job as clients see it. */
export const jobSchema = z
  .object({
    id: z.uuid(),
    task: z.string(),
    queue: z.string(),
    state: z.enum(jobStates),
    priority: z.int(),
    progress: z
      .object({ percent: z.number(), message: z.string().nullable() })
      .describe('What the handler reported last; 100 when it succeeded.'),
    input: z.unknown(),
    result: z.unknown().describe('Null until the job succeeded.'),
    files: z.array(fileSchema).describe('Output files.'),
    error: errorSchema.nullable().describe('Why it failed, or why the last attempt did.'),
    attempts: z.array(
      z.object({
        number: z.int(),
        worker: z.uuid(),
        startedAt: instant,
        finishedAt: instant.nullable(),
        outcome: z.enum(['running', 'succeeded', 'failed', 'snoozed', 'crashed', 'cancelled', 'interrupted']),
        error: errorSchema.nullable(),
      }),
    ),
    attemptsMax: z.int(),
    tags: z.array(z.string()),
    schedule: z.string().nullable().describe('Key of the schedule that made it.'),
    batchId: z.uuid().nullable().describe('The batch that it was sent with.'),
    workflow: z
      .object({
        id: z.uuid(),
        step: z.string(),
        item: z.int().nullable().describe('Which item of the list of the step (`forEach`), from 0.'),
      })
      .nullable()
      .describe('The workflow that it is a step of.'),
    dependsOn: z
      .array(z.object({ job: z.uuid(), on: z.enum(['success', 'end']) }))
      .describe('Jobs that it waits for, or has waited for.'),
    cancelRequested: z.boolean(),
    cancelReason: z.string().nullable(),
    replayOf: z.uuid().nullable().describe('The job that this one was made from by a replay.'),
    createdAt: instant,
    runAt: instant,
    startBefore: instant.nullable().describe('No attempt begins after this time (`startWithinMs`).'),
    startedAt: instant.nullable(),
    finishedAt: instant.nullable(),
    expiresAt: instant
      .nullable()
      .describe('When input, result and files will be deleted; null until the job has ended.'),
    links: z.object({
      self: z.string(),
      result: z.string(),
      logs: z.string(),
      cancel: z.string(),
      retry: z.string(),
      replay: z.string(),
    }),
  })
  .meta({ id: 'Job' });

export type PresentedJob = z.input<typeof jobSchema>;

export function presentJob(
  row: JobRow,
  attempts: readonly AttemptRow[],
  files: readonly FileRow[],
  // Those that its options name; a step of a workflow has others.
  dependencies: readonly DependencyRow[] = readDependsOn(row.options).map((edge) => ({
    parent_id: edge.parentId,
    on_end: edge.on,
  })),
): PresentedJob {
  const ended = attempts.map((attempt, index) => ({
    number: index + 1,
    worker: attempt.worker_id,
    startedAt: attempt.started_at.toISOString(),
    finishedAt: attempt.finished_at.toISOString(),
    outcome: attempt.outcome as PresentedJob['attempts'][number]['outcome'],
    error: attempt.error,
  }));
  const running =
    row.state === 'active' && row.worker_id !== null && row.started_at !== null
      ? [
          {
            number: ended.length + 1,
            worker: row.worker_id,
            startedAt: row.started_at.toISOString(),
            finishedAt: null,
            outcome: 'running' as const,
            error: null,
          },
        ]
      : [];
  const path = `/v1/jobs/${row.id}`;
  return {
    id: row.id,
    task: row.task,
    queue: row.queue,
    state: row.state,
    priority: row.priority,
    progress:
      row.state === 'succeeded'
        ? { percent: 100, message: null }
        : (row.progress ?? { percent: 0, message: null }),
    input: row.input,
    result: row.result ?? null,
    files: files.map(presentFile),
    error: row.error,
    attempts: [...ended, ...running],
    attemptsMax: row.attempts_max,
    tags: [...row.tags],
    schedule: row.schedule_key,
    batchId: row.batch_id,
    workflow:
      row.workflow_id === null || row.workflow_step === null
        ? null
        : { id: row.workflow_id, step: row.workflow_step, item: row.each_index },
    dependsOn: dependencies.map((edge) => ({ job: edge.parent_id, on: edge.on_end })),
    cancelRequested: row.cancel_requested_at !== null,
    cancelReason: row.cancel_reason,
    replayOf: (row.options as { replayOf?: string }).replayOf ?? null,
    createdAt: row.created_at.toISOString(),
    runAt: row.run_at.toISOString(),
    startBefore: row.start_before?.toISOString() ?? null,
    startedAt: row.started_at?.toISOString() ?? null,
    finishedAt: row.finished_at?.toISOString() ?? null,
    expiresAt: row.expires_at?.toISOString() ?? null,
    links: {
      self: path,
      result: `${path}/result`,
      logs: `${path}/logs`,
      cancel: `${path}/cancel`,
      retry: `${path}/retry`,
      replay: `${path}/replay`,
    },
  };
}

/** Seconds until asking again makes sense; undefined for a job that has ended. */
export function retryAfterSeconds(row: JobRow, now: Date): number | undefined {
  if (isFinal(row.state)) return undefined;
  return Math.min(60, Math.max(1, Math.ceil((row.run_at.getTime() - now.getTime()) / 1_000)));
}
