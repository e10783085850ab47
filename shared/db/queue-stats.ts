/**
 * What an operator sees of the queues. Nothing here reads more than a capped number of rows, all of them by an index: asking
 * every second costs the same with an empty table and with ten million jobs.
 */
import { byIndex } from './by-index.ts';
import type { Db } from './pool.ts';
import { waitingTenantsSql } from './waiting-tenants.ts';

/** Counts stop here: `10000` means that many, or more. */
export const queueCountMax = 10_000;

export interface QueueStats {
  readonly name: string;
  readonly is_paused: boolean;
  readonly paused_at: Date | null;
  readonly pause_reason: string | null;
  readonly scheduled: number;
  readonly retrying: number;
  readonly blocked: number;
  readonly queued: number;
  readonly active: number;
  /** Dead letters that are still kept. */
  readonly failed: number;
  /** Jobs at once, of all workers that live and take jobs. */
  readonly slots: number;
  /** Of the largest of these workers. */
  readonly slots_of_one: number;
  /** Of the jobs that are next in line; 0 when none waits. */
  readonly oldest_wait_ms: number;
}

// Counting in the order of an index leaves the planner no other way (feed-queues.ts: hasWaitingSql).
const countSql = (condition: string, order: string) =>
  `(SELECT count(*) FROM (SELECT 1 FROM jobs j WHERE j.queue = q.name AND ${condition} ORDER BY ${order} LIMIT ${queueCountMax}) AS counted)`;

/** Rows that are looked at for the longest wait, shared among the tenants; and most tenants. */
const oldestSampleMax = 1_000;

/** A `runAt` may lie before the job was sent: in the past means now. */
const waitsSinceSql = 'greatest(j.run_at, j.created_at)';

// The oldest of a tenant is among its first by rank, except for what priorities change (a step is a minute).
const oldestWaitingSql = `(
  WITH RECURSIVE ${waitingTenantsSql('q.name', oldestSampleMax)}
  SELECT min(next.since) FROM tenant t CROSS JOIN LATERAL (
    SELECT ${waitsSinceSql} AS since FROM jobs j WHERE j.queue = q.name AND j.state = 'queued' AND j.dispatched_at IS NULL AND j.tenant_id = t.tenant_id
    ORDER BY j.rank_at, j.id LIMIT (SELECT greatest(1, ${oldestSampleMax} / greatest(1, count(tenant_id))) FROM tenant)
  ) AS next WHERE t.tenant_id IS NOT NULL)`;

const statsSql = `
WITH worker AS MATERIALIZED (
  SELECT slots FROM workers WHERE reaped_at IS NULL AND lease_until > now() AND quiet_at IS NULL
), active AS MATERIALIZED (
  SELECT queue, count(*) AS count FROM jobs WHERE state = 'active' GROUP BY queue
)
SELECT q.name, q.is_paused, q.paused_at, q.pause_reason, due.scheduled, due.retrying,
  ${countSql(`j.state = 'blocked'`, 'j.id')} AS blocked,
  least(${queueCountMax}, ${countSql(`j.state = 'queued' AND j.dispatched_at IS NULL`, 'j.tenant_id, j.rank_at, j.id')}
    + ${countSql(`j.state = 'queued' AND j.dispatched_at IS NOT NULL`, 'j.id')}) AS queued,
  coalesce((SELECT count FROM active WHERE active.queue = q.name), 0) AS active,
  ${countSql(`j.state = 'failed' AND j.purged_at IS NULL`, 'j.id')} AS failed,
  coalesce((SELECT sum((w.slots->>q.name)::integer) FROM worker w), 0)::integer AS slots,
  coalesce((SELECT max((w.slots->>q.name)::integer) FROM worker w), 0)::integer AS slots_of_one,
  coalesce(greatest(0, extract(epoch FROM now() - least(${oldestWaitingSql},
    (SELECT min(${waitsSinceSql}) FROM jobs j WHERE j.queue = q.name AND j.state = 'queued' AND j.dispatched_at IS NOT NULL))) * 1000), 0)::float8
    AS oldest_wait_ms
FROM queues q CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE state = 'scheduled') AS scheduled, count(*) FILTER (WHERE state = 'retrying') AS retrying FROM (
    SELECT j.state FROM jobs j WHERE j.queue = q.name AND j.state IN ('scheduled', 'retrying') ORDER BY j.run_at LIMIT ${queueCountMax}) AS d
) AS due
WHERE $1::text IS NULL OR q.name = $1
ORDER BY q.name`;

/** All queues, or the one of this name. */
export function listQueueStats(db: Db, name?: string): Promise<QueueStats[]> {
  return byIndex(db, async (client) => {
    const { rows } = await client.query<QueueStats>(statsSql, [name ?? null]);
    return rows;
  });
}

/** Names of all queues: for the nearest to one that does not exist. */
export async function listQueueNames(db: Db): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>('SELECT name FROM queues ORDER BY name');
  return rows.map((row) => row.name);
}
