import type { JobState } from '../domain/job.ts';
import type { Queryable } from './pool.ts';

export interface Cancelled {
  /** Ended here and now. */
  readonly ended: readonly string[];
  /** They run: their workers were asked, and write the end. */
  readonly asked: readonly string[];
}

// As `cancelJob` in jobs.ts, for many: the rows are locked in the order of their ids. What is done to a row goes by the state
// that it was locked in, alone: the snapshot may still show the one before.
const cancelSql = `
WITH target AS MATERIALIZED (
  SELECT id, state FROM jobs WHERE tenant_id = $1 AND id = ANY($2::uuid[])
    AND state IN ('scheduled', 'blocked', 'queued', 'retrying', 'active') ORDER BY id FOR UPDATE
), ended AS (
  UPDATE jobs j SET state = 'cancelled', fence = j.fence + 1, worker_id = NULL, dispatched_at = NULL, finished_at = now(),
    cancel_reason = $3, cancel_requested_at = now(), expires_at = now() + j.retention_ms * interval '1 ms'
  FROM target t WHERE j.id = t.id AND t.state IN ('scheduled', 'blocked', 'queued', 'retrying')
  RETURNING j.id, j.tenant_id
), asked AS (
  UPDATE jobs j SET cancel_requested_at = now(), cancel_reason = $3
  FROM target t WHERE j.id = t.id AND t.state = 'active' AND j.cancel_requested_at IS NULL
  RETURNING j.id
), released AS (
  DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.cancelled' FROM ended
)
SELECT t.id, t.state FROM target t WHERE t.id IN (SELECT id FROM ended UNION ALL SELECT id FROM asked)`;

/** Cancels those of the jobs that have not ended and were not asked to. */
export async function cancelJobs(
  client: Queryable,
  tenantId: string,
  ids: readonly string[],
  reason: string | null,
): Promise<Cancelled> {
  const { rows } = await client.query<{ id: string; state: JobState }>(cancelSql, [tenantId, ids, reason]);
  const idsOf = (isActive: boolean) =>
    rows.filter((row) => (row.state === 'active') === isActive).map((row) => row.id);
  return { ended: idsOf(false), asked: idsOf(true) };
}
