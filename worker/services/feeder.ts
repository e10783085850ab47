/**
 * Feeds Redis from Postgres (shared/db/feed-queues.ts decides what), and repairs what Redis forgot: every 5 s, and at
 * once when the sentinel key is gone or changed, all deliveries that should exist are looked up and the missing
 * ones added again.
 */
import { expireJobs } from '#shared/db/expire-jobs.ts';
import { crashPoint } from '#shared/crash-point.ts';
import { feedQueues, listDispatched, type FeedResult } from '#shared/db/feed-queues.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';
import { bundleSize } from '#shared/queue/bundles.ts';
import type { Deliveries } from '#shared/queue/deliveries.ts';
import type { SignalPublisher } from '#shared/queue/signals.ts';
import { createLoop, type Loop } from './loop.ts';

const idleMs = 500;
const repairEveryMs = 5_000;

export interface Feeder extends Loop {
  /** A delivery was taken: when rows wait for room in the window of its queue, a part of it taken means feed again. */
  noteTaken(queue: string): void;
  /** Looks up all deliveries and adds the missing ones. @returns how many were missing. */
  repair(): Promise<number>;
}

export function createFeeder(options: {
  db: Db;
  queues: readonly string[];
  deliveries: Deliveries;
  signals: Pick<SignalPublisher, 'ended'>;
  /** Of all bundles, for tests. Default: by how quickly the jobs of a queue are taken. */
  bundleSize?: number | undefined;
  log: Logger;
}): Feeder {
  const { db, queues, deliveries, signals, log } = options;
  let lastRepairMs = Number.NEGATIVE_INFINITY;
  let lastExpireMs = Number.NEGATIVE_INFINITY;
  let takenSinceFeed = new Map<string, number>();
  const wakeAfter = new Map<string, number>();

  async function runOnce(): Promise<number> {
    const isForgotten = await deliveries.wasForgotten().catch(() => false);
    if (isForgotten || performance.now() - lastRepairMs > repairEveryMs) {
      // Redis being away must not keep due rows from becoming queued; it is repaired when it is back.
      await repair().catch((err: unknown) => log.debug({ err }, 'repair has to wait'));
    }
    // Not with every feed, which may be many a second; claims refuse what is late in any case.
    if (performance.now() - lastExpireMs > idleMs / 2) {
      lastExpireMs = performance.now();
      signals.ended(await expireJobs(db, queues));
    }
    // Before it looks: what is taken while it does so counts, or all that it found may be gone, and nobody would wake it.
    takenSinceFeed = new Map();
    const fed = await feedQueues(db, queues);
    // Of a queue that another worker was feeding at this moment we know nothing new, and go on as before.
    for (const [queue, count] of fed.wakeAfter) wakeAfter.set(queue, count);
    if (fed.deliveries.length > 0) {
      crashPoint('feed.after-marks');
      await deliveries
        .add(fed.deliveries, sizesOf(fed.takenPerSecond))
        .catch((err: unknown) => log.debug({ err }, 'deliveries left to repair'));
    }
    if (fed.hasMore || isDue()) return 0;
    return Math.min(idleMs, fed.nextDueMs ?? idleMs);
  }

  function isDue(): boolean {
    return [...wakeAfter].some(([queue, count]) => (takenSinceFeed.get(queue) ?? 0) >= count);
  }

  function sizesOf(takenPerSecond: FeedResult['takenPerSecond']): Map<string, number> {
    return new Map(
      [...takenPerSecond].map(([queue, perSecond]) => [queue, options.bundleSize ?? bundleSize(perSecond)]),
    );
  }

  async function repair(): Promise<number> {
    lastRepairMs = performance.now();
    const missing = await deliveries.listMissing(await listDispatched(db, queues));
    if (missing.length > 0) {
      await deliveries.add(missing);
      log.info({ count: missing.length }, 'deliveries that redis had lost were added again');
    }
    return missing.length;
  }

  const loop = createLoop({ name: 'feeder', runOnce, log });
  return {
    ...loop,
    repair,
    noteTaken(queue) {
      const taken = (takenSinceFeed.get(queue) ?? 0) + 1;
      takenSinceFeed.set(queue, taken);
      if (taken === wakeAfter.get(queue)) loop.wake();
    },
  };
}
