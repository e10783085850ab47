import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { startFaultProxy, type Direction, type FaultProxy } from '#test/support/fault-proxy.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';
import { createDb, isConnectionLost, type Db } from './pool.ts';

/** By which a statement that nobody finds out about would still be waiting. */
const halfOfTimeLimitMs = 17_000;

const ways: readonly { what: string; directions: readonly Direction[] }[] = [
  { what: 'requests', directions: ['up'] },
  { what: 'answers', directions: ['down'] },
  { what: 'everything', directions: ['up', 'down'] },
];

test.concurrent.each(ways)(
  'F33: a connection to Postgres that swallows $what is found out long before its time limit, and with it those at rest',
  ({ directions }) =>
    withProxy(async (db, proxy) => {
      await Promise.all([db.query('SELECT pg_sleep(0.2)'), db.query('SELECT pg_sleep(0.2)')]);
      expect(db.idleCount).toBe(2);
      proxy.swallow(directions);
      const lost = db.query('SELECT 1').then(
        () => 'answered',
        (err: unknown) => err,
      );
      await waitFor(() => (proxy.swallowedBytes() > 0 ? true : undefined), { what: 'bytes to be swallowed' });
      proxy.heal();
      const err = await Promise.race([lost, sleep(halfOfTimeLimitMs, 'it still waits', { ref: false })]);
      expect(String(err)).toMatch(/Connection terminated/);
      expect(isConnectionLost(err)).toBe(true);
      await expect(db.query('SELECT 2')).resolves.toBeDefined();
    }),
);

test.concurrent('a statement that Postgres is working on is left alone, however long it takes', () =>
  withProxy(async (db) => {
    const slow = db.query('SELECT pg_sleep(8)');
    const inTransaction = await db.connect();
    await inTransaction.query('BEGIN');
    await inTransaction.query('SELECT pg_sleep(8)');
    await inTransaction.query('COMMIT');
    inTransaction.release();
    await expect(slow).resolves.toBeDefined();
  }));

test.concurrent('a transaction that rests between two statements is left alone', () =>
  withProxy(async (db) => {
    const client = await db.connect();
    await client.query('BEGIN');
    // Longer than a statement may go without an answer before it is asked about.
    await sleep(7_000);
    await expect(client.query('COMMIT')).resolves.toBeDefined();
    client.release();
  }));

async function withProxy(work: (db: Db, proxy: FaultProxy) => Promise<void>): Promise<void> {
  const world = await createWorld();
  const proxy = await startFaultProxy(Number(new URL(world.databaseUrl).port));
  const db = createDb({
    url: proxy.url(world.databaseUrl),
    size: 3,
    timeoutMs: 5_000,
    name: 'half-open-test',
  });
  try {
    await work(db, proxy);
  } finally {
    await proxy.close();
    await db.end();
    await world.dispose();
  }
}
