import type { JobRow } from '../db/jobs.ts';

/**
 * The options by which a job like this one is made again: all but when it was to start, which is over.
 * @param job its columns, and the options that were stored with it.
 */
export function optionsOf(
  job: Pick<JobRow, 'options' | 'priority' | 'tags' | 'attempts_max' | 'retention_ms'>,
): Record<string, unknown> {
  const { backoff, timeoutMs, softTimeoutMs, startWithinMs, concurrencyKey } = job.options;
  return {
    ...(backoff !== undefined && { backoff }),
    ...(timeoutMs !== undefined && { timeoutMs }),
    ...(softTimeoutMs !== undefined && { softTimeoutMs }),
    ...(startWithinMs !== undefined && { startWithinMs }),
    // What must not run side by side must not do so when it is made again.
    ...(concurrencyKey !== undefined && { concurrencyKey }),
    priority: job.priority,
    tags: job.tags,
    attempts: job.attempts_max,
    retentionMs: job.retention_ms,
  };
}
