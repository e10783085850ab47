/**
 * Keeps this worker's lease: one renewal a second, whatever the worker runs. The answer to each names the runs that
 * must stop. When the reaper of another worker has declared this one dead (it was frozen or cut off for longer than
 * its lease), all its runs stop without a trace and the process ends: whatever starts it anew gives it a new id.
 */
import { handBackRuns, renewLease, type Renewal, type RunKey } from '#shared/db/workers.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';
import type { Runs } from '../runs.ts';
import { createLoop, type Loop } from './loop.ts';

export const renewEveryMs = 1_000;
/** Between the answers to two renewals, without which they count as steady. */
const gapMs = 2 * renewEveryMs + 500;

export interface LeaseKeeper extends Loop {
  /**
   * Workers whose lease ended before this time (of the database) may be judged dead: by then this worker's own renewals
   * had worked for a whole lease without a gap, so Postgres was there for the others, too. Undefined when nobody may.
   */
  deadBefore(): Date | undefined;
  /** Since the last renewal that worked, in ms: liveness. */
  silentMs(): number;
}

export function createLeaseKeeper(options: {
  db: Db;
  workerId: string;
  leaseMs: number;
  runs: Runs;
  /** The worker was declared dead; it must leave and be started again. */
  onDead: () => void;
  /** An operator wants this worker to take nothing new, or to take jobs again. */
  onQuiet: (isQuiet: boolean) => void;
  log: Logger;
}): LeaseKeeper {
  const { db, workerId, leaseMs, runs, log } = options;
  let steadySinceMs: number | undefined;
  let deadBefore: Date | undefined;
  let lastMs = performance.now();
  let isDead = false;
  let isQuiet = false;

  async function runOnce(): Promise<number> {
    const startedMs = performance.now();
    const renewal = await renewLease(db, {
      id: workerId,
      leaseMs,
      drain: runs.takeDrain(),
      memoryBytes: process.memoryUsage.rss(),
      runs: runs.list().map((run) => ({ jobId: run.jobId, fence: run.fence })),
    }).catch((err: unknown) => {
      steadySinceMs = undefined;
      deadBefore = undefined;
      throw err;
    });
    const answeredMs = performance.now();
    // A gap means that we, or Postgres, stood still: nobody's silence can be judged from here.
    if (answeredMs - lastMs > gapMs) steadySinceMs = undefined;
    lastMs = answeredMs;
    steadySinceMs ??= answeredMs;
    deadBefore = answeredMs - steadySinceMs >= leaseMs ? renewal.at : undefined;
    await apply(renewal);
    return Math.max(0, renewEveryMs - (performance.now() - startedMs));
  }

  async function apply(renewal: Renewal): Promise<void> {
    for (const key of renewal.superseded) stop(key, 'superseded');
    for (const key of renewal.cancelled) stop(key, 'cancelled');
    if (!renewal.isAlive) {
      for (const run of runs.list()) run.stop('superseded');
      // Renewals go on while the worker stops, and each is told the same.
      if (isDead) return;
      isDead = true;
      log.error({ workerId }, 'declared dead by another worker: all runs stop');
      options.onDead();
      return;
    }
    if (renewal.isQuiet !== isQuiet) {
      isQuiet = renewal.isQuiet;
      options.onQuiet(isQuiet);
    }
    const unknown = renewal.unknown.filter((key) => runs.find(key.jobId)?.fence !== key.fence);
    if (unknown.length > 0)
      await handBackRuns(
        db,
        unknown.map((key) => ({ ...key, workerId })),
      );
  }

  function stop(key: RunKey, reason: 'superseded' | 'cancelled'): void {
    const run = runs.find(key.jobId);
    if (run?.fence === key.fence) run.stop(reason);
  }

  const loop = createLoop({ name: 'lease', runOnce, retryMs: 500, log });
  return {
    ...loop,
    deadBefore: () => deadBefore,
    silentMs: () => performance.now() - lastMs,
  };
}
