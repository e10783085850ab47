/**
 * Jobs that are worthless by now: their option `startWithinMs` gave them so long to start, and they still wait. They fail with the
 * code `expired`, also in a paused queue. A claim refuses them from the same moment on, by the same clock (claim-jobs.ts).
 */
import type { Queryable } from './pool.ts';

export const expireBatchMax = 500;

// Rows that somebody else has in hand are left to the next round, so the order of the locks does not matter.
const expireSql = `
WITH late AS (
  SELECT id FROM jobs WHERE queue = ANY($1) AND state IN ('scheduled', 'blocked', 'queued', 'retrying') AND start_before <= now()
  ORDER BY queue, start_before LIMIT ${expireBatchMax} FOR UPDATE SKIP LOCKED
), ended AS (
  UPDATE jobs j SET state = 'failed', fence = j.fence + 1, dispatched_at = NULL, finished_at = now(),
    expires_at = now() + j.retention_ms * interval '1 ms',
    error = jsonb_build_object('code', 'expired', 'retryable', true, 'message', left(
      'No attempt could begin before ' || to_char(j.start_before AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') || '.'
      || coalesce(' The last one ended with ' || (j.error->>'code') || ': ' || (j.error->>'message'), ''), 2000))
  FROM late WHERE j.id = late.id AND j.state IN ('scheduled', 'blocked', 'queued', 'retrying')
  RETURNING j.id, j.tenant_id, j.error
), released AS (
  DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id
), event AS (
  INSERT INTO events (tenant_id, job_id, type, data)
  SELECT tenant_id, id, 'job.failed', jsonb_build_object('error', error) FROM ended
)
SELECT id FROM ended`;

/**
 * The names of all other queues than these. Jobs may come to a queue that no worker serves, and are late there all the same: each worker
 * looks after those that are not its own, too.
 */
export async function listOtherQueues(db: Queryable, queues: readonly string[]): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>({
    name: 'other-queues',
    text: 'SELECT name FROM queues WHERE NOT name = ANY($1)',
    values: [queues],
  });
  return rows.map((row) => row.name);
}

/** Fails up to `expireBatchMax` jobs of these queues. @returns their ids. */
export async function expireJobs(db: Queryable, queues: readonly string[]): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>({
    name: 'expire-jobs',
    text: expireSql,
    values: [queues],
  });
  return rows.map((row) => row.id);
}
