import { createDb, type Db } from '#shared/db/pool.ts';
import type { BenchWorld } from './servers.ts';

/** A connection to the record of a world, closed afterwards. */
export async function withDb<Value>(world: BenchWorld, work: (db: Db) => Promise<Value>): Promise<Value> {
  const db = createDb({ url: world.databaseUrl, size: 2, timeoutMs: 5_000, name: 'bench' });
  try {
    return await work(db);
  } finally {
    await db.end();
  }
}

/** Waits until no job waits or runs, at most two minutes. */
export async function waitUntilDrained(db: Db): Promise<void> {
  const deadline = performance.now() + 120_000;
  for (;;) {
    // Three index probes: watching costs the watched nothing that could be seen.
    const { rows } = await db.query<{ is_drained: boolean }>(
      `SELECT NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND dispatched_at IS NULL)
          AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND dispatched_at IS NOT NULL)
          AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'active') AS is_drained`,
    );
    if (rows[0]?.is_drained === true) return;
    if (performance.now() > deadline) throw new Error('The jobs were not drained within two minutes.');
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

/**
 * Jobs finished a second, by the record itself: from the commit that ended the last job of the warm-up to the one that
 * ended the last of all. @throws Error unless all succeeded.
 */
export async function readDrainRate(
  db: Db,
  { warmUp, total }: { warmUp: number; total: number },
): Promise<number> {
  const { rows } = await db.query<{ seconds: number }>(
    `SELECT extract(epoch FROM max(finished_at) - min(finished_at) FILTER (WHERE place >= $1))::float8 AS seconds
     FROM (SELECT finished_at, row_number() OVER (ORDER BY finished_at) AS place FROM jobs WHERE state = 'succeeded') AS ended
     HAVING count(*) = $2`,
    [warmUp, total],
  );
  if (rows[0] === undefined) throw new Error('Not every job succeeded.');
  return (total - warmUp) / rows[0].seconds;
}
