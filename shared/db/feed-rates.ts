/**
 * Rates: at most so many starts of a queue, or of a key in it, within any window of so many milliseconds.
 *
 * Not a token bucket: that lets twice its size through in one window, and a token taken when a delivery is made says nothing about
 * when the job starts, because it may wait for a worker. Here every delivery is a row until its start is a whole window ago, and
 * a further one is made only while there are fewer rows than the limit. Whatever window one looks at: when the last delivery that
 * started in it was made, all others that started in it had a row. So no window ever holds more starts than the limit,
 * by the clock of the database, whichever worker claims and however late.
 */
import type { PickedJob, Rate } from './feed-keys.ts';
import type { Queryable } from './pool.ts';

// When a delivery has been claimed: of a run that is active, or has ended. One that was taken back before it was claimed
// is no start; of one whose story has been deleted nobody knows, so it counts from now on.
const updateSql = `
WITH gone AS (
  DELETE FROM rate_starts WHERE queue = $1 AND started_at <= now() - $2 * interval '1 ms'
), pending AS MATERIALIZED (
  SELECT r.job_id, r.fence,
    j.id IS NOT NULL AND j.state = 'queued' AND j.fence = r.fence AND j.dispatched_at IS NOT NULL AS is_pending,
    CASE WHEN j.id IS NULL OR j.purged_at IS NOT NULL THEN now()
      WHEN j.state = 'active' AND j.fence = r.fence + 1 THEN j.started_at
      ELSE a.started_at END AS started_at
  FROM rate_starts r LEFT JOIN jobs j ON j.id = r.job_id LEFT JOIN attempts a ON a.job_id = r.job_id AND a.fence = r.fence + 1
  WHERE r.queue = $1 AND r.started_at IS NULL
), taken_back AS (
  DELETE FROM rate_starts r USING pending p
  WHERE r.job_id = p.job_id AND r.fence = p.fence AND NOT p.is_pending AND p.started_at IS NULL
)
UPDATE rate_starts r SET started_at = p.started_at FROM pending p
WHERE r.job_id = p.job_id AND r.fence = p.fence AND NOT p.is_pending AND p.started_at IS NOT NULL`;

const roomSql = `
SELECT $2::integer - count(*) FILTER (WHERE started_at IS NULL OR started_at > now() - $3::bigint * interval '1 ms') AS room,
  (extract(epoch FROM min(started_at) FILTER (WHERE started_at > now() - $3::bigint * interval '1 ms')
    + $3::bigint * interval '1 ms' - now()) * 1000)::float8 AS queue_ms,
  (extract(epoch FROM min(started_at) FILTER (WHERE concurrency_key IS NOT NULL AND started_at > now() - $4::bigint * interval '1 ms')
    + $4::bigint * interval '1 ms' - now()) * 1000)::float8 AS key_ms
FROM rate_starts WHERE queue = $1`;

/** @returns how many more may be dispatched (of any key), and in how many ms a limit that is reached now lets more through. */
export async function measureRates(
  client: Queryable,
  queue: string,
  rates: { readonly queue: Rate | null; readonly key: Rate | null },
): Promise<{ room: number; nextMs: number | undefined }> {
  const longestMs = Math.max(rates.queue?.perMs ?? 0, rates.key?.perMs ?? 0);
  await client.query({ name: 'feed-rate-update', text: updateSql, values: [queue, longestMs] });
  const { rows } = await client.query<{
    room: number | null;
    queue_ms: number | null;
    key_ms: number | null;
  }>({
    name: 'feed-rate-room',
    text: roomSql,
    values: [queue, rates.queue?.max ?? null, rates.queue?.perMs ?? null, rates.key?.perMs ?? null],
  });
  const { room, queue_ms: queueMs, key_ms: keyMs } = rows[0] ?? { room: null, queue_ms: null, key_ms: null };
  const times = [queueMs, keyMs].filter((ms) => ms !== null);
  return {
    room: room ?? Number.POSITIVE_INFINITY,
    nextMs: times.length === 0 ? undefined : Math.max(1, Math.ceil(Math.min(...times))),
  };
}

/** Remembers deliveries, in the transaction that makes them. */
export async function insertStarts(
  client: Queryable,
  queue: string,
  picked: readonly PickedJob[],
): Promise<void> {
  await client.query({
    name: 'feed-rate-insert',
    text: `INSERT INTO rate_starts (queue, job_id, fence, tenant_id, concurrency_key)
      SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[])`,
    values: [
      queue,
      picked.map((job) => job.id),
      picked.map((job) => job.fence),
      picked.map((job) => job.tenantId),
      picked.map((job) => job.concurrencyKey ?? null),
    ],
  });
}
