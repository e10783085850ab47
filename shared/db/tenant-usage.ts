/** What a tenant has at this moment, for its quotas (api/http/quota.ts). */
import type { Queryable } from './pool.ts';

/**
 * Jobs that have not begun, or wait for their next attempt; what is in the windows of the queues (at most 1,000 each) is left
 * out. Counted up to `limit` in each queue. In the order of an index, which leaves the planner no other way.
 */
export async function countWaitingOfTenant(db: Queryable, tenantId: string, limit: number): Promise<number> {
  const { rows } = await db.query<{ count: number }>(
    `SELECT (SELECT count(*) FROM (SELECT 1 FROM jobs j WHERE j.tenant_id = $1 AND j.state IN ('scheduled', 'blocked', 'retrying')
        ORDER BY j.id LIMIT $2) AS later)
      + (SELECT coalesce(sum(w.count), 0) FROM queues q CROSS JOIN LATERAL (
          SELECT count(*) FROM (SELECT 1 FROM jobs j
            WHERE j.queue = q.name AND j.state = 'queued' AND j.dispatched_at IS NULL AND j.tenant_id = $1
            ORDER BY j.rank_at, j.id LIMIT $2) AS waiting) AS w)::bigint AS count`,
    [tenantId, limit],
  );
  return rows[0]?.count ?? 0;
}

/** Of all its files, uploads and outputs. */
export async function countBytesOfTenant(db: Queryable, tenantId: string): Promise<number> {
  const { rows } = await db.query<{ bytes: number }>(
    `SELECT coalesce(sum(size_bytes), 0)::bigint AS bytes FROM files WHERE tenant_id = $1 AND state = 'ready'`,
    [tenantId],
  );
  return rows[0]?.bytes ?? 0;
}
