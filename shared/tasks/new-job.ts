import type { NewJob } from '../db/accept-jobs.ts';
import { toUniqueKey } from '../domain/unique-key.ts';
import { uuidv7 } from '../ids.ts';
import type { TaskDefinition } from './define-task.ts';
import { readDependsOn, type JobOptions } from './job-options.ts';

/**
 * The job that a task, an input and options make, whoever asks for it: a request, or a schedule. All of them passed their
 * checks. What differs from one way in to the other is added by the caller.
 */
export function toNewJob(
  definition: TaskDefinition,
  job: {
    tenantId: string;
    /** As it was sent: the host parses it again with the schema of its own version. */
    input: unknown;
    options: JobOptions;
    inputFiles: readonly string[];
    /** Of jobs whose options and task name none, in ms. */
    retentionMs: number;
  },
): NewJob {
  const { runAt, priority, attempts, tags, retentionMs, ...forRuns } = job.options;
  const uniqueKey = forRuns.uniqueKey && toUniqueKey(forRuns.uniqueKey);
  const delayMs = uniqueKey?.debounce?.delayMs ?? forRuns.delayMs;
  return {
    id: uuidv7(),
    tenantId: job.tenantId,
    task: definition.name,
    queue: definition.queue,
    priority,
    delayMs: delayMs ?? 0,
    // In UTC: Postgres takes no offset of 16 hours or more, and no endless fraction, which ISO 8601 allows.
    runAt: runAt === undefined ? null : new Date(runAt).toISOString(),
    input: job.input,
    options: { ...forRuns, ...(delayMs !== undefined && { delayMs }), ...(runAt !== undefined && { runAt }) },
    tags,
    attemptsMax: attempts ?? definition.attempts.default,
    retentionMs: retentionMs ?? definition.retentionMs ?? job.retentionMs,
    traceparent: null,
    inputFiles: job.inputFiles,
    newFiles: [],
    idempotency: null,
    scheduleKey: null,
    batchId: null,
    ...(uniqueKey !== undefined && { uniqueKey }),
    ...(forRuns.concurrencyKey !== undefined && {
      concurrency: { key: forRuns.concurrencyKey, max: definition.concurrencyPerKey },
    }),
    dependsOn: readDependsOn(job.options),
  };
}
