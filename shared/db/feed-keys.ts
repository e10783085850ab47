/**
 * Feeding jobs with a concurrency key: at most `concurrency_max` of one key (in tenant and queue) are dispatched or active.
 *
 * Nothing is counted anywhere: what is busy is read from the rows each time, under the lock of feeding, and only feeders
 * dispatch jobs with a key. So a crash leaves no count that is wrong.
 *
 * A job whose key has no room must not stand in the way of those behind it. When a feeder comes across such a job it *parks* it:
 * its rank becomes infinity, and nobody who looks for the next jobs sees it again. When its key has room, the first of the parked
 * get their rank back. Each job is parked once at most unless others overtake it, so 100,000 jobs with one key cost each round of
 * feeding one look at that key. A key has parked jobs only while it is busy (or its rate is used up), so there are few such keys.
 */
import type { Queryable } from './pool.ts';
import { waitingTenantsSql } from './waiting-tenants.ts';

/** Of jobs that wait for room of their key. With the words of the index `jobs_parked`. */
export const isParkedSql = (job: string): string => `${job}.state = 'queued' AND ${job}.rank_at = 'infinity'`;

/** Tenants take turns, beginning after the one that was last (feed-queues.ts). */
export const turnOrderSql = (after: string): string => `turn, tenant_id <= ${after}, tenant_id`;

/** With the words of the index `jobs_ready_with_key`. */
export const isReadyWithKeySql = (job: string): string =>
  `${job}.concurrency_key IS NOT NULL AND ${job}.state = 'queued' AND ${job}.dispatched_at IS NULL AND ${job}.rank_at < 'infinity'`;

/** Keys that one round looks at; the next one goes on after them. */
export const parkedKeysMax = 1_000;
/** Jobs that one round may find without room for their key, and park. */
const parkMax = 1_000;

/** At most `max` starts in any window of `perMs` (feed-rates.ts). */
export interface Rate {
  readonly max: number;
  readonly perMs: number;
}

// Expressions over a key `k`. $1: queue; $2, $3: the rate of keys. Counted up to the limit: more makes no difference.
const busySql = `(SELECT count(*) FROM (SELECT 1 FROM jobs b WHERE b.queue = $1 AND b.tenant_id = k.tenant_id
  AND b.concurrency_key = k.concurrency_key AND b.concurrency_key IS NOT NULL AND (b.state = 'active' OR b.dispatched_at IS NOT NULL)
  LIMIT k.concurrency_max) AS b)`;
const readySql = `(SELECT count(*) FROM (SELECT 1 FROM jobs w WHERE w.queue = $1 AND w.tenant_id = k.tenant_id
  AND w.concurrency_key = k.concurrency_key AND ${isReadyWithKeySql('w')} LIMIT k.concurrency_max) AS w)`;
const rateRoomSql = `CASE WHEN $2::integer IS NULL THEN k.concurrency_max ELSE $2::integer - (SELECT count(*) FROM rate_starts r
  WHERE r.queue = $1 AND r.tenant_id = k.tenant_id AND r.concurrency_key = k.concurrency_key
    AND (r.started_at IS NULL OR r.started_at > now() - $3::bigint * interval '1 ms')) END`;

// From key to key, one probe each. Ids as an array, and isfinite() for `= 'infinity'`: as in feed-queues.ts, any other words
// let the planner join all that are parked.
const unparkSql = `
WITH RECURSIVE k AS (
  (SELECT j.tenant_id, j.concurrency_key, j.concurrency_max, 1 AS place FROM jobs j
   WHERE j.queue = $1 AND ${isParkedSql('j')} AND (j.tenant_id, j.concurrency_key) > ($4, $5)
   ORDER BY j.tenant_id, j.concurrency_key, j.parked_rank_at, j.id LIMIT 1)
  UNION ALL
  SELECT n.tenant_id, n.concurrency_key, n.concurrency_max, k.place + 1 FROM k CROSS JOIN LATERAL (
    SELECT j.tenant_id, j.concurrency_key, j.concurrency_max FROM jobs j
    WHERE j.queue = $1 AND ${isParkedSql('j')} AND (j.tenant_id, j.concurrency_key) > (k.tenant_id, k.concurrency_key)
    ORDER BY j.tenant_id, j.concurrency_key, j.parked_rank_at, j.id LIMIT 1) AS n
  WHERE k.place < ${parkedKeysMax}
), judged AS MATERIALIZED (
  SELECT k.tenant_id, k.concurrency_key, least(k.concurrency_max - ${busySql}, ${rateRoomSql}) - ${readySql} AS room FROM k
), head AS MATERIALIZED (
  SELECT h.id FROM judged CROSS JOIN LATERAL (
    SELECT j.id FROM jobs j WHERE j.queue = $1 AND ${isParkedSql('j')} AND j.tenant_id = judged.tenant_id
      AND j.concurrency_key = judged.concurrency_key
    ORDER BY j.parked_rank_at, j.id LIMIT greatest(judged.room, 0)) AS h
), unparked AS (
  UPDATE jobs j SET rank_at = coalesce(j.parked_rank_at, j.run_at), parked_rank_at = NULL
  WHERE j.id = ANY (ARRAY(SELECT id FROM head)) AND j.state = 'queued' AND NOT isfinite(j.rank_at) RETURNING j.id
)
SELECT (SELECT count(*) FROM unparked) AS unparked, k.place AS keys, k.tenant_id, k.concurrency_key FROM k ORDER BY k.place DESC LIMIT 1`;

/**
 * Gives the first of the parked jobs their rank back, as many as their keys have room for.
 * @param after the key to go on after; from the first one if null.
 * @returns how many, and the key to go on after the next time; null at the end.
 */
export async function unpark(
  client: Queryable,
  queue: string,
  rate: Rate | null,
  after: readonly string[] | null,
): Promise<{ count: number; next: readonly string[] | null }> {
  const { rows } = await client.query<{
    unparked: number;
    keys: number;
    tenant_id: string;
    concurrency_key: string;
  }>({
    name: 'feed-unpark',
    text: unparkSql,
    values: [queue, rate?.max ?? null, rate?.perMs ?? null, after?.[0] ?? '', after?.[1] ?? ''],
  });
  const row = rows[0];
  if (row === undefined) return { count: 0, next: null };
  return {
    count: row.unparked,
    next: row.keys < parkedKeysMax ? null : [row.tenant_id, row.concurrency_key],
  };
}

// As in feed-queues.ts, tenants in turn; but of each key only as many as it has room for, and a few more rows of each tenant
// are read, so that those without room are parked and do not come up again.
const pickSql = `
WITH RECURSIVE ${waitingTenantsSql('$1')}, seen AS MATERIALIZED (
  SELECT t.tenant_id, j.id, j.rank_at, j.concurrency_key, j.concurrency_max,
    row_number() OVER (PARTITION BY t.tenant_id, j.concurrency_key ORDER BY j.rank_at, j.id) AS place
  FROM tenant t CROSS JOIN LATERAL (
    SELECT id, rank_at, concurrency_key, concurrency_max FROM jobs
    WHERE queue = $1 AND state = 'queued' AND dispatched_at IS NULL AND tenant_id = t.tenant_id AND rank_at < 'infinity'
    ORDER BY rank_at, id LIMIT (SELECT ceil(($4::float8 + ${parkMax}) / greatest(1, count(tenant_id)))::bigint FROM tenant)
  ) j WHERE t.tenant_id IS NOT NULL
), key AS MATERIALIZED (
  SELECT k.tenant_id, k.concurrency_key, ${busySql} AS busy, ${rateRoomSql} AS rate_room
  FROM (SELECT tenant_id, concurrency_key, max(concurrency_max) AS concurrency_max FROM seen
    WHERE concurrency_key IS NOT NULL GROUP BY tenant_id, concurrency_key) AS k
), judged AS MATERIALIZED (
  SELECT s.*, least(s.concurrency_max - k.busy, k.rate_room) AS key_room
  FROM seen s LEFT JOIN key k ON k.tenant_id = s.tenant_id AND k.concurrency_key = s.concurrency_key
), turns AS (
  SELECT id, rank_at, tenant_id, concurrency_key, row_number() OVER (PARTITION BY tenant_id ORDER BY rank_at, id) AS turn
  FROM judged WHERE concurrency_key IS NULL OR place <= key_room
), picked AS MATERIALIZED (
  SELECT id, turn, rank_at, tenant_id, concurrency_key, row_number() OVER (ORDER BY ${turnOrderSql('$5')}) AS place
  FROM turns ORDER BY place LIMIT $4
), dispatched AS (
  UPDATE jobs j SET dispatched_at = now()
  WHERE j.id = ANY (ARRAY(SELECT id FROM picked)) AND j.state = 'queued' AND num_nulls(j.dispatched_at) = 1
  RETURNING j.id, j.fence
), without_room AS MATERIALIZED (
  SELECT s.id FROM judged s
  LEFT JOIN (SELECT tenant_id, concurrency_key, count(*) AS count FROM picked GROUP BY tenant_id, concurrency_key) AS p
    ON p.tenant_id = s.tenant_id AND p.concurrency_key = s.concurrency_key
  WHERE s.concurrency_key IS NOT NULL AND s.place > s.key_room AND s.key_room <= coalesce(p.count, 0)
), parked AS (
  UPDATE jobs j SET parked_rank_at = j.rank_at, rank_at = 'infinity'
  WHERE j.id = ANY (ARRAY(SELECT id FROM without_room)) AND j.state = 'queued' AND num_nulls(j.dispatched_at) = 1
  RETURNING j.id
)
SELECT (SELECT count(*) FROM parked) AS parked, coalesce((SELECT json_agg(json_build_object(
  'id', d.id, 'fence', d.fence, 'tenantId', p.tenant_id, 'place', p.place, 'concurrencyKey', p.concurrency_key) ORDER BY p.turn, p.rank_at, p.id)
  FROM dispatched d JOIN picked p ON p.id = d.id), '[]') AS picked`;

export interface PickedJob {
  readonly id: string;
  readonly fence: number;
  readonly tenantId: string;
  /** In the order in which the tenants had their turns. */
  readonly place: number;
  readonly concurrencyKey?: string | null;
}

/** The next jobs of a queue of which some have a key. @returns those that were picked, and how many were parked. */
export async function pickWithKeys(
  client: Queryable,
  queue: string,
  options: { rate: Rate | null; room: number; turnAfter: string | null },
): Promise<{ picked: PickedJob[]; parked: number }> {
  const { rate, room, turnAfter } = options;
  const { rows } = await client.query<{ picked: PickedJob[]; parked: number }>({
    name: 'feed-pick-with-keys',
    text: pickSql,
    values: [queue, rate?.max ?? null, rate?.perMs ?? null, room, turnAfter ?? ''],
  });
  return rows[0] ?? { picked: [], parked: 0 };
}
