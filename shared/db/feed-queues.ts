/**
 * Feeding: deciding which queued rows go to Redis next. Redis holds at most one *window* per queue (about a second
 * of work), so that its memory does not know the backlog, and priority, pause and fairness act within a second.
 *
 * Any worker may feed; one transaction at a time does so per queue, under an advisory lock that is only tried:
 * whoever does not get it has nothing to do, because someone else is doing it. Marks are committed before deliveries
 * are added to Redis. A feeder that dies in between leaves marked rows without a delivery; repair finds them.
 */
import {
  isParkedSql,
  isReadyWithKeySql,
  pickWithKeys,
  turnOrderSql,
  unpark,
  type PickedJob,
  type Rate,
} from './feed-keys.ts';
import { insertStarts, measureRates } from './feed-rates.ts';
import { briefRest, inTransaction, unsynced, type Db, type Queryable } from './pool.ts';
import { waitingTenantsSql } from './waiting-tenants.ts';
import type { Delivery } from './claim-jobs.ts';

export const windowMax = 1_000;
const dueMax = 1_000;

export interface QueueDelivery extends Delivery {
  readonly queue: string;
}

export interface FeedResult {
  readonly deliveries: readonly QueueDelivery[];
  /** By queue: jobs that a worker took in the last second, on average of those that serve it. */
  readonly takenPerSecond: ReadonlyMap<string, number>;
  /** More rows wait and the window has room, or more became due than one tick moves: feed again at once. */
  readonly hasMore: boolean;
  /**
   * By queue, of those that nobody else was feeding: feed again when one worker has taken so many. Infinity where no rows waited
   * before this tick.
   */
  readonly wakeAfter: ReadonlyMap<string, number>;
  /** Until the next row becomes due, in ms; undefined when none is scheduled. */
  readonly nextDueMs: number | undefined;
}

/** One tick for those of `queues` that nobody else is feeding at this moment. */
export function feedQueues(db: Db, queues: readonly string[]): Promise<FeedResult> {
  return inTransaction(db, async (client) => {
    const locked = await lockQueues(client, queues);
    if (locked.length === 0)
      return {
        deliveries: [],
        takenPerSecond: new Map(),
        hasMore: false,
        wakeAfter: new Map(),
        nextDueMs: undefined,
      };
    const dueCount = await moveDue(client, locked);
    const states = await readQueues(client, locked);
    const deliveries: QueueDelivery[] = [];
    let hasMore = dueCount === dueMax;
    const wakeAfter = new Map<string, number>();
    const dueTimes = states.map((state) => state.next_due_ms).filter((ms) => ms !== null);
    for (const state of states) {
      wakeAfter.set(state.name, Number.POSITIVE_INFINITY);
      if (state.is_paused || !(state.has_waiting || state.has_parked)) continue;
      const fed: Fed = state.room > 0 ? await feedQueue(client, state) : { picked: [], hasMore: false };
      if (state.has_waiting) wakeAfter.set(state.name, partOfWindow(state, fed.picked.length));
      for (const row of fed.picked) deliveries.push({ jobId: row.id, fence: row.fence, queue: state.name });
      if (fed.hasMore) hasMore = true;
      if (fed.nextMs !== undefined) dueTimes.push(fed.nextMs);
    }
    return {
      deliveries,
      takenPerSecond: new Map(states.map((state) => [state.name, state.taken_per_second])),
      hasMore,
      wakeAfter,
      nextDueMs: dueTimes.length === 0 ? undefined : Math.max(0, Math.min(...dueTimes)),
    };
  });
}

/**
 * An eighth of what Redis holds of the queue, for each of the workers that take from it. Fewer at a time cost more: a tick is six
 * statements, whatever it moves. More at a time would keep a tenant that comes now waiting for its first turn.
 */
function partOfWindow({ window_size, room, workers }: QueueRow, picked: number): number {
  const held = window_size - room + picked;
  return Math.max(1, Math.floor(held / 8 / Math.max(1, workers)));
}

/** Waits until nobody feeds the queue $1, and keeps feeders away until the transaction ends. */
export const lockFeedingSql = `SELECT pg_advisory_xact_lock(hashtextextended('windlass.feed.' || $1, 0))`;

interface Fed {
  readonly picked: readonly PickedJob[];
  readonly hasMore: boolean;
  /** When a rate lets more through. */
  readonly nextMs?: number | undefined;
}

async function feedQueue(client: Queryable, state: QueueRow): Promise<Fed> {
  // Tenants with fewer rows than their share leave room that the next tick fills.
  const isPart = (count: number, room: number): boolean => count > 0 && count < room;
  const { queueRate, keyRate } = ratesOf(state);
  const hasRate = queueRate !== null || keyRate !== null;
  if (!hasRate && !state.has_keys && !state.has_parked) {
    const picked = await pickNext(client, state);
    await rememberTurn(client, state, picked, state.room);
    return { picked, hasMore: isPart(picked.length, state.room) };
  }
  const rate = hasRate
    ? await measureRates(client, state.name, { queue: queueRate, key: keyRate })
    : undefined;
  const room = Math.min(state.room, rate?.room ?? state.room);
  if (room <= 0) return { picked: [], hasMore: false, nextMs: rate?.nextMs };
  if (state.has_parked) await unparkNext(client, state, keyRate);
  const { picked, parked } = await pickWithKeys(client, state.name, {
    rate: keyRate,
    room,
    turnAfter: state.turn_after,
  });
  if (picked.length > 0) {
    await rememberTurn(client, state, picked, room);
    if (hasRate) await insertStarts(client, state.name, picked);
    // Forgotten by a crash of Postgres, a delivery that Redis still knows would run beside the next one of its key.
    await client.query('SET LOCAL synchronous_commit TO DEFAULT');
  }
  const isFullOfKeys = parked > 0 && picked.length < room;
  return { picked, hasMore: isPart(picked.length, room) || isFullOfKeys, nextMs: rate?.nextMs };
}

function ratesOf(state: QueueRow): { queueRate: Rate | null; keyRate: Rate | null } {
  const toRate = (max: number | null, perMs: number | null): Rate | null =>
    max === null || perMs === null ? null : { max, perMs };
  return {
    queueRate: toRate(state.rate_max, state.rate_per_ms),
    keyRate: toRate(state.key_rate_max, state.key_rate_per_ms),
  };
}

/** Where one round ended is remembered with the queue only when there are more keys than a round looks at. */
async function unparkNext(client: Queryable, state: QueueRow, keyRate: Rate | null): Promise<void> {
  const { next } = await unpark(client, state.name, keyRate, state.parked_after);
  if (next !== null || state.parked_after !== null)
    await client.query('UPDATE queues SET parked_after = $2 WHERE name = $1', [state.name, next]);
}

/**
 * What a tick writes may be forgotten by a crash of Postgres: the next one does it again, and adds the same deliveries.
 */
async function lockQueues(client: Queryable, queues: readonly string[]): Promise<string[]> {
  const { rows } = await client.query<{ name: string; locked: boolean }>({
    name: 'feed-lock',
    text: `WITH ${unsynced}, ${briefRest} SELECT name, pg_try_advisory_xact_lock(hashtextextended('windlass.feed.' || name, 0)) AS locked
      FROM unsynced CROSS JOIN brief_rest CROSS JOIN unnest($1::text[]) AS name`,
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
  taken_per_second: number;
  /** That take from it. */
  workers: number;
  window_size: number;
  room: number;
  /** Jobs that could be picked, if their keys have room. */
  has_waiting: boolean;
  /** Some of them have a key. */
  has_keys: boolean;
  /** Jobs wait for room of their key. */
  has_parked: boolean;
  parked_after: readonly string[] | null;
  /** The tenant that had the last turn. */
  turn_after: string | null;
  rate_max: number | null;
  rate_per_ms: number | null;
  key_rate_max: number | null;
  key_rate_per_ms: number | null;
  next_due_ms: number | null;
}

/**
 * Does any row of the queue `q` wait that is not parked? Not with EXISTS: after a long backlog the planner believes that a few
 * rows of the table will do to find one, and reads all of it (0.6 s with 1,000,000 jobs) when the backlog is gone. The order
 * leaves it the index. Parked rows come last of their tenant, so the first row almost always tells; else the first of each tenant does.
 */
export const hasWaitingSql = `coalesce((SELECT first.rank_at < 'infinity' OR (
    WITH RECURSIVE head AS (
      SELECT first.tenant_id, first.rank_at
      UNION ALL
      SELECT n.tenant_id, n.rank_at FROM head CROSS JOIN LATERAL (
        SELECT w.tenant_id, w.rank_at FROM jobs w
        WHERE w.queue = q.name AND w.state = 'queued' AND w.dispatched_at IS NULL AND w.tenant_id > head.tenant_id
        ORDER BY w.tenant_id, w.rank_at, w.id LIMIT 1) AS n
      WHERE head.rank_at = 'infinity'
    ) SELECT bool_or(rank_at < 'infinity') FROM head)
  FROM (SELECT w.tenant_id, w.rank_at FROM jobs w WHERE w.queue = q.name AND w.state = 'queued' AND w.dispatched_at IS NULL
    ORDER BY w.tenant_id, w.rank_at, w.id LIMIT 1) AS first), false)`;

/** Measures the window (max of live slots and one second of drain), stores it when it changed, and counts the room in it. */
async function readQueues(client: Queryable, queues: readonly string[]): Promise<QueueRow[]> {
  const { rows } = await client.query<QueueRow>({
    name: 'feed-read',
    text: `
      WITH size AS (
        SELECT q.name, least(${windowMax}, greatest(1, live.slots, live.drain))::integer AS window_size,
          coalesce(live.drain / nullif(live.count, 0), 0)::integer AS taken_per_second, live.count::integer AS workers
        FROM queues q CROSS JOIN LATERAL (
          SELECT sum((w.slots->>q.name)::integer) AS slots, sum((w.drain->>q.name)::integer) AS drain, count(w.slots->>q.name) AS count
          FROM workers w WHERE w.reaped_at IS NULL AND w.lease_until > now() AND w.quiet_at IS NULL) AS live
        WHERE q.name = ANY($1)
      ), stored AS (
        UPDATE queues q SET window_size = size.window_size FROM size
        WHERE q.name = size.name AND q.window_size <> size.window_size
      )
      SELECT q.name, q.is_paused, size.taken_per_second, size.workers, size.window_size,
        (size.window_size - (SELECT count(*) FROM jobs d
           WHERE d.queue = q.name AND d.state = 'queued' AND d.dispatched_at IS NOT NULL))::integer AS room,
        ${hasWaitingSql} AS has_waiting,
        (SELECT k.concurrency_key FROM jobs k WHERE k.queue = q.name AND ${isReadyWithKeySql('k')}
         ORDER BY k.tenant_id, k.concurrency_key LIMIT 1) IS NOT NULL AS has_keys,
        (SELECT p.id FROM jobs p WHERE p.queue = q.name AND ${isParkedSql('p')}
         ORDER BY p.tenant_id, p.concurrency_key, p.parked_rank_at, p.id LIMIT 1) IS NOT NULL AS has_parked,
        q.parked_after, q.turn_after, q.rate_max, q.rate_per_ms, q.key_rate_max, q.key_rate_per_ms,
        (SELECT extract(epoch FROM min(run_at) - now()) * 1000 FROM jobs s
           WHERE s.queue = q.name AND s.state IN ('scheduled', 'retrying'))::float8 AS next_due_ms
      FROM queues q JOIN size ON size.name = q.name`,
    values: [queues],
  });
  return rows;
}

// Tenants in turn: the recursive query steps through the tenants that wait (one index probe each), each gives at
// most its share, oldest rank first, and the first of each go before the second of any. When there is not room for one of
// each, the next round goes on after the tenant that was last ($3): by rank alone whoever has a long backlog, which is older
// than all that comes, would get every slot. The ids are handed over as an array, and num_nulls() is IS NULL in words that the
// planner does not know: in all other ways it joins the whole backlog, through the partial index that fits or by hashing it
// (0.8 s with 1,000,000 jobs). A job with a key that came in the last moment is left to the next tick, which looks at keys.
// What is picked at once is delivered by turn and rank: an update answers in any order.
const pickSql = `
WITH RECURSIVE ${waitingTenantsSql('$1')}, turns AS (
  SELECT j.id, j.rank_at, t.tenant_id, row_number() OVER (PARTITION BY t.tenant_id ORDER BY j.rank_at, j.id) AS turn
  FROM tenant t CROSS JOIN LATERAL (
    SELECT id, rank_at FROM jobs
    WHERE queue = $1 AND state = 'queued' AND dispatched_at IS NULL AND tenant_id = t.tenant_id AND rank_at < 'infinity'
    ORDER BY rank_at, id LIMIT (SELECT ceil($2::float8 / greatest(1, count(tenant_id)))::bigint FROM tenant)
  ) j WHERE t.tenant_id IS NOT NULL
), picked AS (
  SELECT id, turn, rank_at, row_number() OVER (ORDER BY ${turnOrderSql('$3')}) AS place FROM turns ORDER BY place LIMIT $2
), dispatched AS (
  UPDATE jobs j SET dispatched_at = now()
  WHERE j.id = ANY (ARRAY(SELECT id FROM picked)) AND j.state = 'queued' AND num_nulls(j.dispatched_at, j.concurrency_key) = 2
  RETURNING j.id, j.fence, j.tenant_id
)
SELECT d.id, d.fence, d.tenant_id AS "tenantId", p.place FROM dispatched d JOIN picked p ON p.id = d.id
ORDER BY p.turn, p.rank_at, p.id`;

async function pickNext(client: Queryable, { name, room, turn_after }: QueueRow): Promise<PickedJob[]> {
  const { rows } = await client.query<PickedJob>({
    name: 'feed-pick',
    text: pickSql,
    values: [name, room, turn_after ?? ''],
  });
  return rows;
}

/** Whose turn was last matters only when there was not room for all. */
async function rememberTurn(
  client: Queryable,
  state: QueueRow,
  picked: readonly PickedJob[],
  room: number,
): Promise<void> {
  if (picked.length < room) return;
  const last = picked.reduce<PickedJob | undefined>(
    (latest, job) => (latest === undefined || job.place > latest.place ? job : latest),
    undefined,
  );
  if (last === undefined || last.tenantId === state.turn_after) return;
  await client.query({
    name: 'feed-turn',
    text: 'UPDATE queues SET turn_after = $2 WHERE name = $1',
    values: [state.name, last.tenantId],
  });
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

/**
 * Sets the rates of all known queues to what the definitions of their tasks say. Whoever starts last is right: deliveries made
 * before count under the new limit, too, as far as they were made under one.
 */
export async function setQueueRates(
  db: Queryable,
  rates: ReadonlyMap<string, { readonly queue: Rate | null; readonly key: Rate | null }>,
): Promise<void> {
  // One by one: feeders lock the rows of several queues in an order of their own.
  for (const [name, { queue, key }] of rates) {
    await db.query(
      `UPDATE queues SET rate_max = $2, rate_per_ms = $3, key_rate_max = $4, key_rate_per_ms = $5 WHERE name = $1
         AND (rate_max, rate_per_ms, key_rate_max, key_rate_per_ms) IS DISTINCT FROM ($2::integer, $3::bigint, $4::integer, $5::bigint)`,
      [name, queue?.max ?? null, queue?.perMs ?? null, key?.max ?? null, key?.perMs ?? null],
    );
  }
}
