import { Client } from 'pg';
import type { Db } from '#shared/db/pool.ts';

/**
 * A pool of a process that was frozen in the middle of a transaction: BEGIN and the first statement are done, and nothing comes
 * after them. `stands` resolves then.
 */
export async function createStandingPool(
  url: string,
): Promise<{ db: Db; stands: Promise<void>; close(): Promise<void> }> {
  const client = new Client({ connectionString: url });
  // Postgres may lose patience.
  client.on('error', () => undefined);
  await client.connect();
  const { promise: stands, resolve } = Promise.withResolvers<void>();
  let statements = 0;
  const query = (...args: Parameters<Client['query']>) => {
    statements += 1;
    if (statements <= 2) return client.query(...args);
    resolve();
    return new Promise(() => {});
  };
  const db = { connect: () => Promise.resolve({ query, release: () => undefined }) };
  // The two things that `inTransaction` asks of a pool and its client.
  return { db: db as unknown as Db, stands, close: () => client.end() };
}
