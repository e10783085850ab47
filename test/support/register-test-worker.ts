import type { Queryable } from '#shared/db/pool.ts';
import { registerWorker } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';

/** A live worker in the record, without a process. @returns its id. */
export async function registerTestWorker(
  db: Queryable,
  slots: Readonly<Record<string, number>>,
  { id = uuidv7(), leaseMs = 60_000 }: { id?: string; leaseMs?: number } = {},
): Promise<string> {
  await registerWorker(db, { id, host: 'h', pid: 1, version: '0', slots, isolation: 'process' }, leaseMs);
  return id;
}
