/**
 * Retrying a failed job by hand: the same job, with all the attempts it was given at first. What is forgotten: how many attempts
 * and crashes were counted, the error, the progress, an asked-for cancel, and the time in which it had to start, which begins
 * anew. What stays: its id, its input and options, the story of its attempts and their logs, and what is known of its effects
 * outside, so that an e-mail that may have been sent is still not sent twice.
 */
import { isDataError, sqlState, type Db } from './pool.ts';
import type { JobState } from '../domain/job.ts';

export type RetryAnswer =
  | { readonly type: 'queued' }
  | { readonly type: 'missing' }
  | { readonly type: 'not-failed'; readonly state: JobState }
  /** Its input was deleted at the end of its retention. */
  | { readonly type: 'purged' }
  /** A file of its input was deleted. */
  | { readonly type: 'file-missing' };

/** What becomes of the row `j` of a failed job. */
export const resetSql = `state = 'queued', fence = j.fence + 1, attempts_used = 0, crashes = 0, error = NULL, progress = NULL,
    run_at = now(), rank_at = now() - j.priority * interval '60 s', started_at = NULL, finished_at = NULL, expires_at = NULL,
    cancel_requested_at = NULL, cancel_reason = NULL,
    start_before = now() + (j.options->>'startWithinMs')::float8 * interval '1 ms'`;

// The row is locked first, so a delete, a purge or another retry at the same moment is seen. The files are held again: the
// foreign key refuses when one is gone.
const retrySql = `
WITH target AS (
  SELECT id, tenant_id, state, purged_at FROM jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE
), retried AS (
  UPDATE jobs j SET ${resetSql}
  FROM target t WHERE j.id = t.id AND t.state = 'failed' AND t.purged_at IS NULL AND j.state = 'failed'
  RETURNING j.id, j.tenant_id
), reference AS (
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT r.id, f, r.tenant_id FROM retried r CROSS JOIN unnest($3::uuid[]) AS f
), event AS (
  INSERT INTO events (tenant_id, job_id, type, data) SELECT tenant_id, id, 'job.queued', '{"retry": true}' FROM retried
)
SELECT state, purged_at IS NOT NULL AS is_purged, EXISTS (SELECT 1 FROM retried) AS is_retried FROM target`;

/** @param inputFiles ids of the files that its input refers to. */
export async function retryJob(
  db: Db,
  job: { tenantId: string; id: string; inputFiles: readonly string[] },
): Promise<RetryAnswer> {
  try {
    const { rows } = await db.query<{ state: JobState; is_purged: boolean; is_retried: boolean }>(retrySql, [
      job.tenantId,
      job.id,
      job.inputFiles,
    ]);
    const row = rows[0];
    if (row === undefined) return { type: 'missing' };
    if (row.is_retried) return { type: 'queued' };
    return row.is_purged ? { type: 'purged' } : { type: 'not-failed', state: row.state };
  } catch (err) {
    if (isDataError(err) && sqlState(err) === '23503') return { type: 'file-missing' };
    throw err;
  }
}
