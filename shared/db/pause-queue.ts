/**
 * Pausing and resuming a queue, for all tenants. A pause sets the flag and takes back what was handed to Redis, in one
 * transaction: fences grow, so a delivery on its way finds nothing. Three things may happen at the same moment:
 *
 * - A feeder is picking rows. It holds the lock of feeding, and the pause waits for it.
 * - A job is accepted by a statement that began before the pause, and is marked as dispatched after it. Its delivery
 *   finds nothing, because claims refuse paused queues (claim-jobs.ts), and the resume takes the mark back.
 * - A worker is claiming. Whoever has the row first: either the job runs as one that was started before, or its fence is old.
 *
 * A resume takes back once more, so that everything that waited is fed in the order of its rank.
 */
import { lockFeedingSql } from './feed-queues.ts';
import { inTransaction, type Db, type Queryable } from './pool.ts';

/** @returns false when there is no such queue. Pausing again keeps the time, and the reason unless there is a new one. */
export function pauseQueue(db: Db, name: string, reason: string | null): Promise<boolean> {
  return inTransaction(db, async (client) => {
    await client.query(lockFeedingSql, [name]);
    const { rowCount } = await client.query(
      `UPDATE queues SET is_paused = true, paused_at = coalesce(paused_at, now()), pause_reason = coalesce($2, pause_reason)
       WHERE name = $1`,
      [name, reason],
    );
    if (rowCount === 0) return false;
    await takeBack(client, name);
    return true;
  });
}

/** @returns false when there is no such queue. Resuming one that is not paused changes nothing. */
export function resumeQueue(db: Db, name: string): Promise<boolean> {
  return inTransaction(db, async (client) => {
    await client.query(lockFeedingSql, [name]);
    const { rows } = await client.query<{ was_paused: boolean }>(
      'SELECT is_paused AS was_paused FROM queues WHERE name = $1 FOR UPDATE',
      [name],
    );
    const row = rows[0];
    if (row === undefined) return false;
    if (!row.was_paused) return true;
    await client.query(
      'UPDATE queues SET is_paused = false, paused_at = NULL, pause_reason = NULL WHERE name = $1',
      [name],
    );
    await takeBack(client, name);
    return true;
  });
}

/** Bounded by the window: at most 1,000 rows. Locked in the order of their ids, like claims. */
async function takeBack(client: Queryable, queue: string): Promise<void> {
  await client.query(
    `WITH dispatched AS (
       SELECT id FROM jobs WHERE queue = $1 AND state = 'queued' AND dispatched_at IS NOT NULL ORDER BY id FOR UPDATE
     )
     UPDATE jobs j SET dispatched_at = NULL, fence = j.fence + 1 FROM dispatched d
     WHERE j.id = d.id AND j.state = 'queued' AND j.dispatched_at IS NOT NULL`,
    [queue],
  );
}
