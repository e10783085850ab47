/**
 * Draining a queue: everything that has not started is cancelled, in batches, so that a backlog of a million neither holds its locks
 * for a minute nor fills the memory. What is accepted meanwhile stays, and so does what runs.
 */
import { byIndex } from './by-index.ts';
import { lockFeedingSql } from './feed-queues.ts';
import type { Db } from './pool.ts';

export const drainBatchMax = 500;

export interface DrainResult {
  readonly cancelled: number;
  /** False: the time was up, and there is more. */
  readonly isDone: boolean;
}

/**
 * What has not started, by the index that finds it, in the direction of a job's life: what moves on between two
 * batches is met again.
 */
const kinds = [
  { states: `state = 'blocked'`, order: 'id' },
  { states: `state IN ('scheduled', 'retrying')`, order: 'run_at' },
  { states: `state = 'queued' AND dispatched_at IS NULL`, order: 'tenant_id, rank_at, id' },
  { states: `state = 'queued' AND dispatched_at IS NOT NULL`, order: 'id' },
] as const;

const drainSql = (kind: (typeof kinds)[number], scope: 'tenant' | 'all') => `
WITH picked AS MATERIALIZED (
  SELECT id FROM jobs WHERE queue = $1 AND ${scope === 'tenant' ? 'tenant_id = $2' : '$2::text IS NULL'} AND ${kind.states}
    AND created_at <= $3::timestamptz
  ORDER BY ${kind.order} LIMIT ${drainBatchMax}
), target AS (
  SELECT id FROM jobs WHERE id IN (SELECT id FROM picked) ORDER BY id FOR UPDATE
), ended AS (
  UPDATE jobs j SET state = 'cancelled', fence = j.fence + 1, dispatched_at = NULL, finished_at = now(), cancel_reason = $4,
    cancel_requested_at = now(), expires_at = now() + j.retention_ms * interval '1 ms'
  FROM target t WHERE j.id = t.id AND j.state IN ('scheduled', 'blocked', 'queued', 'retrying')
  RETURNING j.id, j.tenant_id
), released AS (
  DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.cancelled' FROM ended
)
SELECT (SELECT count(*) FROM picked) AS picked, ARRAY(SELECT id FROM ended) AS ids`;

/**
 * @param drain.tenantId whose jobs; undefined: those of all tenants.
 * @param drain.budgetMs no further batch is begun after this time.
 * @param drain.onCancelled is told the ids of each batch.
 */
export async function drainQueue(
  db: Db,
  drain: {
    queue: string;
    tenantId: string | undefined;
    reason: string | null;
    budgetMs: number;
    onCancelled: (ids: readonly string[]) => void;
  },
): Promise<DrainResult> {
  const startedMs = performance.now();
  // As text: a Date has no microseconds.
  const { rows } = await db.query<{ now: string }>('SELECT now()::text AS now');
  const values = [drain.queue, drain.tenantId ?? null, rows[0]?.now, drain.reason];
  let cancelled = 0;
  for (const kind of kinds) {
    const sql = drainSql(kind, drain.tenantId === undefined ? 'all' : 'tenant');
    for (;;) {
      if (performance.now() - startedMs > drain.budgetMs) return { cancelled, isDone: false };
      const batch = await byIndex(db, async (client) => {
        // A feeder marks rows in another order than that of their ids: taking turns with it, neither can deadlock.
        await client.query(lockFeedingSql, [drain.queue]);
        const { rows: answers } = await client.query<{ picked: number; ids: string[] }>(sql, values);
        return answers[0] ?? { picked: 0, ids: [] };
      });
      cancelled += batch.ids.length;
      if (batch.ids.length > 0) drain.onCancelled(batch.ids);
      if (batch.picked < drainBatchMax) break;
    }
  }
  return { cancelled, isDone: true };
}
