/**
 * Retrying a failed job by hand: the same job, with all the attempts it was given at first. What is forgotten: how many attempts
 * and crashes were counted, the error, the progress, an asked-for cancel, and the time in which it had to start, which begins
 * anew. What stays: its id, its input and options, the story of its attempts and their logs, and what is known of its effects
 * outside, so that an e-mail that may have been sent is still not sent twice.
 */
import { releaseJob } from './dependencies.ts';
import { inTransaction, isDataError, sqlState, type Db, type Queryable } from './pool.ts';
import { findOtherHolder } from './unique-jobs.ts';
import type { UniqueKey } from '../domain/unique-key.ts';
import type { JobState } from '../domain/job.ts';

export type RetryAnswer =
  /** `waits`: it failed before it could run, and what it waited for, or takes from, is looked at again. */
  | { readonly type: 'queued'; readonly waits: boolean }
  | { readonly type: 'missing' }
  | { readonly type: 'not-failed'; readonly state: JobState }
  /** Its input was deleted at the end of its retention. */
  | { readonly type: 'purged' }
  /** Another job has its unique key by now. */
  | { readonly type: 'key-held'; readonly jobId: string }
  /** A file of its input was deleted. */
  | { readonly type: 'file-missing' };

/**
 * What becomes of the row `j` of a failed job. `waits` is SQL: it failed while it waited for other jobs. Of a job that failed at the same
 * moment Postgres first checks the constraints of the row as the snapshot has it, with its worker, or dispatched.
 */
export const resetSql = (
  waits: string,
): string => `state = CASE WHEN ${waits} THEN 'blocked'::job_state ELSE 'queued' END, fence = j.fence + 1, worker_id = NULL, dispatched_at = NULL, attempts_used = 0, crashes = 0, error = NULL, progress = NULL,
    run_at = now(), rank_at = now() - j.priority * interval '60 s', started_at = NULL, finished_at = NULL, expires_at = NULL,
    cancel_requested_at = NULL, cancel_reason = NULL,
    start_before = now() + (j.options->>'startWithinMs')::float8 * interval '1 ms'`;

/** Of a row of `jobs` that has failed: it did so before it could run, and has something to wait for, or to take from. */
export const waitsSql = `(EXISTS (SELECT FROM job_input_refs r WHERE r.child_id = jobs.id)
    OR EXISTS (SELECT FROM job_dependencies d WHERE d.child_id = jobs.id AND d.parent_state IS NULL))`;

// The row is locked first, so a delete, a purge or another retry at the same moment is seen. The files are held again: the
// foreign key refuses when one is gone.
const retrySql = `
WITH target AS (
  SELECT id, tenant_id, state, purged_at, ${waitsSql} AS waits
  FROM jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE
), retried AS (
  UPDATE jobs j SET ${resetSql('t.waits')}
  FROM target t WHERE j.id = t.id AND t.state = 'failed' AND t.purged_at IS NULL
  RETURNING j.id, j.tenant_id, j.state
), reference AS (
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT r.id, f, r.tenant_id FROM retried r CROSS JOIN unnest($3::uuid[]) AS f
), event AS (
  INSERT INTO events (tenant_id, job_id, type, data) SELECT tenant_id, id, 'job.' || state, '{"retry": true}' FROM retried
)
SELECT state, purged_at IS NOT NULL AS is_purged, EXISTS (SELECT 1 FROM retried) AS is_retried, waits FROM target`;

/** Undoes the retry. */
class KeyHeldError extends Error {
  override name = 'KeyHeldError';
  readonly jobId: string;
  constructor(jobId: string) {
    super('Another job has the unique key.');
    this.jobId = jobId;
  }
}

interface JobToRetry {
  readonly tenantId: string;
  readonly id: string;
  /** Ids of the files that its input refers to. */
  readonly inputFiles: readonly string[];
  /** What it was accepted with, and the task to which the key belongs. */
  readonly unique?: { readonly task: string; readonly uniqueKey: UniqueKey } | undefined;
}

export async function retryJob(db: Db, job: JobToRetry): Promise<RetryAnswer> {
  const { unique } = job;
  if (unique === undefined) return retryRow(db, job);
  try {
    return await inTransaction(db, async (client) => {
      const answer = await retryRow(client, job);
      const holder =
        answer.type === 'queued' ? await findOtherHolder(client, { ...job, ...unique }) : undefined;
      if (holder !== undefined) throw new KeyHeldError(holder);
      return answer;
    });
  } catch (err) {
    if (err instanceof KeyHeldError) return { type: 'key-held', jobId: err.jobId };
    throw err;
  }
}

async function retryRow(db: Queryable, job: JobToRetry): Promise<RetryAnswer> {
  try {
    const { rows } = await db.query<{
      state: JobState;
      is_purged: boolean;
      is_retried: boolean;
      waits: boolean;
    }>(retrySql, [job.tenantId, job.id, job.inputFiles]);
    const row = rows[0];
    if (row === undefined) return { type: 'missing' };
    if (row.is_retried) {
      // Should this process die here, the releaser does it.
      if (row.waits) await releaseJob(db, job.id);
      return { type: 'queued', waits: row.waits };
    }
    return row.is_purged ? { type: 'purged' } : { type: 'not-failed', state: row.state };
  } catch (err) {
    if (isDataError(err) && sqlState(err) === '23503') return { type: 'file-missing' };
    throw err;
  }
}
