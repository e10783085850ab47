/**
 * Feeding: deciding which queued rows go to Redis next. Redis holds at most one *window* per queue (about a second
 * of work), so that its memory does not know the backlog, and priority, pause and fairness act within a second.
 *
 * Any worker may feed; one transaction at a time does so per queue, under an advisory lock that is only tried:
 * whoever does not get it has nothing to do, because someone else is doing it. Marks are committed before deliveries
 * are added to Redis. A feeder that dies in between leaves marked rows without a delivery; repair finds them.
 */
import { inTransaction, unsynced, type Db, type Queryable } from './pool.ts';
import type { Delivery } from './claim-jobs.ts';

export const windowMax = 1_000;
const dueMax = 1_000;

export interface QueueDelivery extends Delivery {
  readonly queue: string;
}

export interface FeedResult {
  readonly deliveries: readonly QueueDelivery[];
  /** More rows wait and the window has room, or more became due than one tick moves: feed again at once. */
  readonly hasMore: boolean;
  /** Rows wait that did not fit into the window: feed again when it has drained a little. */
  readonly isBacklogged: boolean;
  /** Until the next row becomes due, in ms; undefined when none is scheduled. */
  readonly nextDueMs: number | undefined;
}

/** One tick for those of `queues` that nobody else is feeding at this moment. */
export function feedQueues(db: Db, queues: readonly string[]): Promise<FeedResult> {
  return inTransaction(db, async (client) => {
    const locked = await lockQueues(client, queues);
    if (locked.length === 0)
      return { deliveries: [], hasMore: false, isBacklogged: false, nextDueMs: undefined };
    const dueCount = await moveDue(client, locked);
    const states = await readQueues(client, locked);
    const deliveries: QueueDelivery[] = [];
    let hasMore = dueCount === dueMax;
    let isBacklogged = false;
    for (const state of states) {
      if (state.is_paused || !state.has_waiting) continue;
      isBacklogged = true;
      if (state.room <= 0) continue;
      const picked = await pickNext(client, state.name, state.room);
      for (const row of picked) deliveries.push({ jobId: row.id, fence: row.fence, queue: state.name });
      // Tenants with fewer rows than their share leave room that the next tick fills.
      if (picked.length > 0 && picked.length < state.room) hasMore = true;
    }
    const dueTimes = states.map((state) => state.next_due_ms).filter((ms) => ms !== null);
    return {
      deliveries,
      hasMore,
      isBacklogged,
      nextDueMs: dueTimes.length === 0 ? undefined : Math.max(0, Math.min(...dueTimes)),
    };
  });
}

/** Waits until nobody feeds the queue $1, and keeps feeders away until the transaction ends. */
export const lockFeedingSql = `SELECT pg_advisory_xact_lock(hashtextextended('windlass.feed.' || $1, 0))`;

/**
 * What a tick writes may be forgotten by a crash of Postgres: the next one does it again, and adds the same deliveries.
 */
async function lockQueues(client: Queryable, queues: readonly string[]): Promise<string[]> {
  const { rows } = await client.query<{ name: string; locked: boolean }>({
    name: 'feed-lock',
    text: `WITH ${unsynced} SELECT name, pg_try_advisory_xact_lock(hashtextextended('windlass.feed.' || name, 0)) AS locked
      FROM unsynced CROSS JOIN unnest($1::text[]) AS name`,
    values: [queues],
  });
  return rows.filter((row) => row.locked).map((row) => row.name);
}

/** `scheduled` and `retrying` rows whose time has come, by the database's clock, become `queued`. */
async function moveDue(client: Queryable, queues: readonly string[]): Promise<number> {
  const { rowCount } = await client.query({
    name: 'feed-due',
    text: `
      WITH due AS (
        SELECT id FROM jobs WHERE queue = ANY($1) AND state IN ('scheduled', 'retrying') AND run_at <= now()
        ORDER BY run_at LIMIT ${dueMax} FOR UPDATE SKIP LOCKED
      ), moved AS (
        UPDATE jobs j SET state = 'queued' FROM due WHERE j.id = due.id RETURNING j.tenant_id, j.id
      )
      INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.queued' FROM moved`,
    values: [queues],
  });
  return rowCount ?? 0;
}

interface QueueRow {
  name: string;
  is_paused: boolean;
  room: number;
  has_waiting: boolean;
  next_due_ms: number | null;
}

/**
 * Does any row of the queue `q` wait? Not with EXISTS: after a long backlog the planner believes that a few rows of the table
 * will do to find one, and reads all of it (0.6 s with 1,000,000 jobs) when the backlog is gone. The order leaves it the index.
 */
export const hasWaitingSql = `(SELECT w.id FROM jobs w WHERE w.queue = q.name AND w.state = 'queued' AND w.dispatched_at IS NULL
  ORDER BY w.tenant_id, w.rank_at, w.id LIMIT 1) IS NOT NULL`;

/** Measures the window (max of live slots and one second of drain), stores it when it changed, and counts the room in it. */
async function readQueues(client: Queryable, queues: readonly string[]): Promise<QueueRow[]> {
  const { rows } = await client.query<QueueRow>({
    name: 'feed-read',
    text: `
      WITH size AS (
        SELECT q.name, least(${windowMax}, greatest(1,
          (SELECT greatest(sum((w.slots->>q.name)::integer), sum((w.drain->>q.name)::integer))
           FROM workers w WHERE w.reaped_at IS NULL AND w.lease_until > now() AND w.quiet_at IS NULL)))::integer AS window_size
        FROM queues q WHERE q.name = ANY($1)
      ), stored AS (
        UPDATE queues q SET window_size = size.window_size FROM size
        WHERE q.name = size.name AND q.window_size <> size.window_size
      )
      SELECT q.name, q.is_paused,
        (size.window_size - (SELECT count(*) FROM jobs d
           WHERE d.queue = q.name AND d.state = 'queued' AND d.dispatched_at IS NOT NULL))::integer AS room,
        ${hasWaitingSql} AS has_waiting,
        (SELECT extract(epoch FROM min(run_at) - now()) * 1000 FROM jobs s
           WHERE s.queue = q.name AND s.state IN ('scheduled', 'retrying'))::float8 AS next_due_ms
      FROM queues q JOIN size ON size.name = q.name`,
    values: [queues],
  });
  return rows;
}

// Tenants in turn: the recursive query steps through the tenants that wait (one index probe each), each gives at
// most its share, oldest rank first, and the first of each go before the second of any. The ids are
// handed over as an array, and num_nulls() is IS NULL in words that the planner does not know: in all other ways it joins the
// whole backlog, through the partial index that fits or by hashing it (0.8 s with 1,000,000 jobs). What is picked at once is
// delivered in that order as well: an update answers in any.
const pickSql = `
WITH RECURSIVE tenant AS (
  (SELECT tenant_id FROM jobs WHERE queue = $1 AND state = 'queued' AND dispatched_at IS NULL ORDER BY tenant_id LIMIT 1)
  UNION ALL
  SELECT (SELECT j.tenant_id FROM jobs j
    WHERE j.queue = $1 AND j.state = 'queued' AND j.dispatched_at IS NULL AND j.tenant_id > t.tenant_id ORDER BY j.tenant_id LIMIT 1)
  FROM tenant t WHERE t.tenant_id IS NOT NULL
), turns AS (
  SELECT j.id, j.rank_at, row_number() OVER (PARTITION BY t.tenant_id ORDER BY j.rank_at, j.id) AS turn
  FROM tenant t CROSS JOIN LATERAL (
    SELECT id, rank_at FROM jobs
    WHERE queue = $1 AND state = 'queued' AND dispatched_at IS NULL AND tenant_id = t.tenant_id
    ORDER BY rank_at, id LIMIT (SELECT ceil($2::float8 / greatest(1, count(tenant_id)))::bigint FROM tenant)
  ) j WHERE t.tenant_id IS NOT NULL
), picked AS (
  SELECT id, row_number() OVER (ORDER BY turn, rank_at, id) AS place FROM turns ORDER BY turn, rank_at, id LIMIT $2
), marked AS (
  UPDATE jobs j SET dispatched_at = now()
  WHERE j.id = ANY (ARRAY(SELECT id FROM picked)) AND j.state = 'queued' AND num_nulls(j.dispatched_at) = 1
  RETURNING j.id, j.fence
)
SELECT id, fence FROM marked JOIN picked USING (id) ORDER BY place`;

async function pickNext(
  client: Queryable,
  queue: string,
  room: number,
): Promise<{ id: string; fence: number }[]> {
  const { rows } = await client.query<{ id: string; fence: number }>({
    name: 'feed-pick',
    text: pickSql,
    values: [queue, room],
  });
  return rows;
}

/** What Redis should hold at this moment: repair compares it with what Redis does hold. Bounded by the windows. */
export async function listDispatched(db: Db, queues: readonly string[]): Promise<QueueDelivery[]> {
  const { rows } = await db.query<{ id: string; fence: number; queue: string }>(
    `SELECT j.id, j.fence, j.queue FROM jobs j JOIN queues q ON q.name = j.queue
     WHERE j.queue = ANY($1) AND j.state = 'queued' AND j.dispatched_at IS NOT NULL AND NOT q.is_paused`,
    [queues],
  );
  return rows.map((row) => ({ jobId: row.id, fence: row.fence, queue: row.queue }));
}

/** Makes the rows by which accept and the feeder know the queues of all known tasks. */
export async function ensureQueues(db: Queryable, queues: readonly string[]): Promise<void> {
  await db.query('INSERT INTO queues (name) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING', [
    queues,
  ]);
}
