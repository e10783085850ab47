/**
 * Jobs wait for jobs. The transaction that ends the last one that a job waits for moves it on; this loop does what was
 * too much for one transaction (a chain of ten thousand jobs whose first one fails), and finds jobs that wait for nobody.
 */
import { releaseStranded, settleDependants } from '#shared/db/dependencies.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';
import { createLoop, type Loop } from './loop.ts';

const everyMs = 1_000;
const lookEveryMs = 5_000;
/** Blocked jobs looked at in one round. */
const windowRows = 1_000;
const firstId = '00000000-0000-0000-0000-000000000000';

export interface Releaser extends Loop {
  /** Does all that is left over. @returns how many ended jobs still had somebody waiting. */
  settleLeftovers(): Promise<number>;
}

export function createReleaser(options: { db: Db; onReleased: () => void; log: Logger }): Releaser {
  const { db, onReleased, log } = options;
  let after = firstId;
  let nextLookMs = 0;

  async function settleLeftovers(): Promise<number> {
    let total = 0;
    for (;;) {
      const count = await settleDependants(db);
      if (count === 0) return total;
      total += count;
    }
  }

  async function runOnce(): Promise<number> {
    if ((await settleLeftovers()) > 0) onReleased();
    if (performance.now() < nextLookMs) return everyMs;
    nextLookMs = performance.now() + lookEveryMs;
    const stranded = await releaseStranded(db, after, windowRows);
    after = stranded.next ?? firstId;
    if (stranded.released > 0) {
      log.warn({ jobs: stranded.released }, 'jobs that waited for nobody were moved on');
      onReleased();
    }
    return everyMs;
  }

  return { ...createLoop({ name: 'releaser', runOnce, log }), settleLeftovers };
}
