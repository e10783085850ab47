/**
 * Takes deliveries of one queue from BullMQ. The lock that BullMQ holds meanwhile is no protection (the fence is);
 * it only decides how soon a delivery whose worker died before claiming is offered again.
 *
 * The watchdog: a worker can stop taking jobs without an error (half-open connections, bugs of reconnecting). If Redis
 * holds deliveries, we have a free slot and took nothing for 10 s, the BullMQ worker is rebuilt on new
 * connections; when two new ones have brought no delivery either, `onStuck` ends the process.
 */
import { WaitingError, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Delivery } from '../db/claim-jobs.ts';
import type { Logger } from '../log.ts';
import { parseDeliveryId, type Deliveries } from './deliveries.ts';

export interface Consumer {
  readonly queue: string;
  /** Deliveries being worked on. */
  busy(): number;
  /** Takes no further deliveries; one that arrives all the same goes back to Redis, for another worker. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Runs the watchdog once; called by a timer, and by tests. @returns true when the BullMQ worker was rebuilt. */
  watch(nowMs?: number): Promise<boolean>;
  close(): Promise<void>;
}

const lockDurationMs = 6_000;
const stalledIntervalMs = 3_000;
const stuckAfterMs = 10_000;

export function createConsumer(options: {
  queue: string;
  slots: number;
  prefix: string;
  connect: () => Redis;
  deliveries: Deliveries;
  /** Resolves when there is room for one more, or when it need not wait any longer because the consumer is paused. */
  admit?: (isPaused: () => boolean) => Promise<void>;
  work: (delivery: Delivery) => Promise<void>;
  onStuck: () => void;
  log: Logger;
}): Consumer {
  const { queue, slots, prefix, deliveries, work, log } = options;
  let busy = 0;
  let lastTakenMs = performance.now();
  let rebuilds = 0;
  let isPaused = false;
  let current = build();

  function build() {
    const connection = options.connect();
    const worker = new Worker(
      queue,
      async (job, token) => {
        lastTakenMs = performance.now();
        rebuilds = 0;
        const delivery = parseDeliveryId(job.id);
        if (delivery === undefined) {
          log.warn({ queue, id: job.id }, 'a delivery that is not ours was dropped');
          return;
        }
        busy += 1;
        try {
          await options.admit?.(() => isPaused);
          // BullMQ had asked for it before the pause.
          if (isPaused) {
            await job.moveToWait(token);
            throw new WaitingError();
          }
          await work(delivery);
        } finally {
          busy -= 1;
        }
      },
      {
        connection,
        prefix,
        concurrency: slots,
        lockDuration: lockDurationMs,
        stalledInterval: stalledIntervalMs,
        // A delivery may stall any number of times: claims decide what runs, and crashes are counted in Postgres.
        maxStalledCount: 1_000_000,
        drainDelay: 5,
        skipVersionCheck: true,
      },
    );
    // "Missing lock" and the like are expected after a stall: the claim or the fence has settled it already.
    worker.on('error', (err) => log.debug({ queue, err: err.message }, 'worker error'));
    worker.on('failed', (_job, err) => log.debug({ queue, err: err.message }, 'delivery failed'));
    return { worker, connection };
  }

  async function discard(old: typeof current): Promise<void> {
    await old.worker.close(true).catch(() => {});
    old.connection.disconnect();
  }

  return {
    queue,
    busy: () => busy,
    async pause() {
      isPaused = true;
      // true: do not wait for the running jobs; the caller has a deadline of its own.
      await current.worker.pause(true).catch(() => {});
    },
    async resume() {
      isPaused = false;
      lastTakenMs = performance.now();
      await current.worker.resume();
    },
    async watch(nowMs = performance.now()) {
      if (isPaused || busy >= slots || nowMs - lastTakenMs < stuckAfterMs) return false;
      const waiting = await deliveries.countWaiting(queue).catch(() => 0);
      // Paused meanwhile: a new worker would take deliveries and put them back for as long as the pause lasts.
      if (waiting === 0 || isPaused) {
        lastTakenMs = nowMs;
        return false;
      }
      rebuilds += 1;
      log.error({ queue, waiting, rebuilds }, 'deliveries wait and none is taken: rebuilding the consumer');
      if (rebuilds > 2) options.onStuck();
      const old = current;
      current = build();
      lastTakenMs = nowMs;
      void discard(old);
      return true;
    },
    async close() {
      isPaused = true;
      await discard(current);
    },
  };
}
