/** Whether so many jobs wait that a worker, like the api, makes no more. */
import { countWaiting } from '#shared/db/jobs.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';

const validMs = 5_000;

export function createBacklogGate(options: {
  db: Db;
  backlogMax: number;
  log: Logger;
}): () => Promise<boolean> {
  const { db, backlogMax, log } = options;
  let known = { isFull: false, validUntilMs: 0 };

  /** Counting a long backlog takes time: at most a twentieth of it. */
  return async () => {
    const startedMs = performance.now();
    if (startedMs < known.validUntilMs) return known.isFull;
    const isFull = (await countWaiting(db, backlogMax)) >= backlogMax;
    if (isFull && !known.isFull)
      log.warn({ backlogMax }, 'too many jobs wait: schedules and bulk actions make none');
    const tookMs = performance.now() - startedMs;
    known = { isFull, validUntilMs: startedMs + Math.max(validMs, tookMs * 20) };
    return isFull;
  };
}
