import type pg from 'pg';
import { inTransaction, type Db } from './pool.ts';

/**
 * A transaction whose statements find their rows by an index and in its order, so that their LIMIT is a limit of what is read. After
 * a long backlog the planner believes that reading the whole table is shorter (feed-queues.ts), or it collects all that fits in order
 * to sort it. The pool of workers has these settings for good (pool.ts); this is for the api's.
 */
export function byIndex<Value>(db: Db, work: (client: pg.PoolClient) => Promise<Value>): Promise<Value> {
  return inTransaction(db, async (client) => {
    await client.query('SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off');
    return work(client);
  });
}
