import type { NewJob } from '#shared/db/accept-jobs.ts';
import { uuidv7 } from '#shared/ids.ts';

/** A job of the task `t` in the queue `q` that has passed all checks, to be accepted. */
export function newJob(fields: Partial<NewJob> = {}): NewJob {
  return {
    id: uuidv7(),
    tenantId: 'default',
    task: 't',
    queue: 'q',
    priority: 0,
    delayMs: 0,
    runAt: null,
    input: {},
    options: {},
    tags: [],
    attemptsMax: 3,
    retentionMs: 60_000,
    traceparent: null,
    inputFiles: [],
    newFiles: [],
    idempotency: null,
    scheduleKey: null,
    batchId: null,
    ...fields,
  };
}
