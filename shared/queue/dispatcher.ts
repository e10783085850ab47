/**
 * Hands freshly accepted jobs to Redis, after the answer was sent. It never makes a request wait or fail: when Redis
 * is away or slow, deliveries are dropped here, and repair finds their rows within seconds.
 */
import type { QueueDelivery } from '../db/feed-queues.ts';
import type { Logger } from '../log.ts';
import type { Deliveries } from './deliveries.ts';

export interface Dispatcher {
  dispatch(delivery: QueueDelivery): void;
  /** Resolves when all that was given has been added or dropped. */
  idle(): Promise<void>;
}

/** More than a full window of every queue need not wait in memory: repair would add the rest in one go. */
const pendingMax = 5_000;

export function createDispatcher(options: { deliveries: Deliveries; log: Logger }): Dispatcher {
  const { deliveries, log } = options;
  let pending: QueueDelivery[] = [];
  let running: Promise<void> | undefined;

  async function run(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    while (pending.length > 0) {
      const group = pending;
      pending = [];
      try {
        await deliveries.add(group);
      } catch (err) {
        log.debug(
          { count: group.length, err: err instanceof Error ? err.message : String(err) },
          'deliveries left to repair',
        );
      }
    }
    running = undefined;
  }

  return {
    dispatch(delivery) {
      if (pending.length >= pendingMax) return;
      pending.push(delivery);
      running ??= run();
    },
    async idle() {
      while (running !== undefined) await running;
    },
  };
}
