/**
 * Takes deliveries of one queue from BullMQ. The lock that BullMQ holds meanwhile is no protection (the fence is);
 * it only decides how soon a delivery whose worker died before claiming is offered again. So a BullMQ job ends as soon as its
 * deliveries are claimed, and there is a slot for what BullMQ fetches next.
 *
 * The watchdog: a worker can stop taking jobs without an error (half-open connections, bugs of reconnecting). If Redis
 * holds deliveries, we have a free slot and took nothing for 10 s, the BullMQ worker is rebuilt on new
 * connections; when two new ones have brought no delivery either, `onStuck` ends the process.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { WaitingError, Worker, type Job } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Delivery } from '../db/claim-jobs.ts';
import type { Logger } from '../log.ts';
import { unpackEntry } from './bundles.ts';
import type { Deliveries } from './deliveries.ts';
import { createSlotGate } from './slot-gate.ts';

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
/** BullMQ jobs that are on their way at once: enough to share the claims of many, few enough to leave some for others. */
const fetchesMax = 16;
/** Of a bundle, what has no slot in this time goes back. */
const holdMs = 250;
const giveBackRetryMs = 500;

export function createConsumer(options: {
  queue: string;
  slots: number;
  prefix: string;
  connect: () => Redis;
  deliveries: Pick<Deliveries, 'add' | 'countWaiting'>;
  /** Resolves when there is room for one more, or when it need not wait any longer because the consumer is paused. */
  admit?: (isPaused: () => boolean) => Promise<void>;
  /** Resolves when the slot is free again. `onClaimed` is called when the delivery has no meaning any more. */
  work: (delivery: Delivery, onClaimed: () => void) => Promise<void>;
  onStuck: () => void;
  log: Logger;
}): Consumer {
  const { queue, slots, prefix, deliveries, work, log } = options;
  const fetches = Math.min(slots, fetchesMax);
  const gate = createSlotGate(slots, fetches);
  /** Entries whose deliveries are not all claimed. */
  let handling = 0;
  let lastTakenMs = performance.now();
  let rebuilds = 0;
  let isPaused = false;
  let isClosed = false;
  let current = build();

  function build() {
    const connection = options.connect();
    const worker = new Worker(
      queue,
      async (job, token) => {
        lastTakenMs = performance.now();
        rebuilds = 0;
        handling += 1;
        if (worker === current.worker) gate.release();
        try {
          await handle(job, token);
        } finally {
          handling -= 1;
          if (worker === current.worker) await keepSlot();
        }
      },
      {
        connection,
        prefix,
        concurrency: fetches,
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

  /** For what BullMQ fetches next. While paused it fetches nothing. */
  async function keepSlot(): Promise<void> {
    const kept = gate.keep();
    if (isPaused) gate.giveUp();
    await kept;
  }

  /** @throws WaitingError when all of the entry goes back, for BullMQ to leave it alone. */
  async function handle(job: Job, token: string | undefined): Promise<void> {
    const taken = unpackEntry(job.id, job.data);
    if (taken === undefined) {
      log.warn({ queue, id: job.id }, 'a delivery that is not ours was dropped');
      return;
    }
    const untilMs = performance.now() + holdMs;
    const claims: Promise<void>[] = [];
    for (const delivery of taken) {
      if (!(await enter(untilMs))) break;
      claims.push(begin(delivery));
    }
    if (claims.length === 0) {
      await job.moveToWait(token);
      throw new WaitingError();
    }
    await Promise.all([...claims, giveBack(taken.slice(claims.length))]);
  }

  /** @returns false when there is no slot in time, or none any more. */
  async function enter(untilMs: number): Promise<boolean> {
    if (isPaused || !(await gate.enter(Math.max(0, untilMs - performance.now())))) return false;
    await options.admit?.(() => isPaused);
    // BullMQ had asked for it before the pause.
    if (isPaused) gate.leave();
    return !isPaused;
  }

  /** Resolves when it is claimed, or was dropped: then repair finds that it is missing. */
  function begin(delivery: Delivery): Promise<void> {
    return new Promise((resolve) => {
      void work(delivery, resolve)
        .catch((err: unknown) => log.debug({ queue, err }, 'delivery failed'))
        .then(() => {
          gate.leave();
          resolve();
        });
    });
  }

  /** While a bundle is in our hands repair takes all of it for delivered: so this does not end before they are in Redis. */
  async function giveBack(rest: readonly Delivery[]): Promise<void> {
    while (rest.length > 0 && !isClosed) {
      try {
        await deliveries.add(rest.map((delivery) => ({ ...delivery, queue })));
        return;
      } catch (err) {
        log.debug({ queue, count: rest.length, err }, 'deliveries are given back a little later');
        await sleep(giveBackRetryMs);
      }
    }
  }

  async function discard(old: typeof current): Promise<void> {
    await old.worker.close(true).catch(() => {});
    old.connection.disconnect();
  }

  return {
    queue,
    busy: gate.busy,
    async pause() {
      isPaused = true;
      gate.giveUp();
      // true: do not wait for the running jobs; the caller has a deadline of its own.
      await current.worker.pause(true).catch(() => {});
    },
    async resume() {
      isPaused = false;
      lastTakenMs = performance.now();
      await current.worker.resume();
    },
    async watch(nowMs = performance.now()) {
      const isFull = gate.busy() >= slots || handling >= fetches;
      if (isPaused || isFull || nowMs - lastTakenMs < stuckAfterMs) return false;
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
      gate.giveUp();
      gate.keepOnly(fetches);
      lastTakenMs = nowMs;
      void discard(old);
      return true;
    },
    async close() {
      isClosed = true;
      isPaused = true;
      await discard(current);
    },
  };
}
