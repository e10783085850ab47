/**
 * Deliveries: what Redis holds of a job. A delivery is a BullMQ job named `j_<job id>_<fence>`, or one of several in a bundle
 * (bundles.ts), without retries, gone when it was taken. All of it can be made again from Postgres. Adding a delivery again adds
 * nothing, or a second one that the claim refuses: so every function here may fail or be repeated without harm.
 */
import type { Redis } from 'ioredis';
import { randomUUID } from 'node:crypto';
import type { QueueDelivery } from '../db/feed-queues.ts';
import { deliveryId, packEntries, type Entry } from './bundles.ts';
import { addScript, entryOptions, missingScript } from './delivery-scripts.ts';

export interface Deliveries {
  /**
   * Adds them all.
   * @param sizes of bundles, by queue. Default: each by itself.
   * @throws when Redis is away or refuses (read-only, out of memory).
   */
  add(deliveries: readonly QueueDelivery[], sizes?: ReadonlyMap<string, number>): Promise<void>;
  /** Puts them before all that wait, the first first. @throws as `add`. */
  giveBack(deliveries: readonly QueueDelivery[]): Promise<void>;
  /** Those that Redis does not hold, or holds where no worker would find them: what is left of these is deleted. */
  listMissing(deliveries: readonly QueueDelivery[]): Promise<QueueDelivery[]>;
  /** Has Redis been emptied since the last call? True on the first call and whenever the sentinel key is gone or new. */
  wasForgotten(): Promise<boolean>;
  /** Deliveries of a queue, or bundles of them, that no worker has taken. */
  countWaiting(queue: string): Promise<number>;
  close(): void;
}

/** More in one call would keep Redis from everything else for too long. */
const addMax = 250;

export function createDeliveries(options: { redis: Redis; prefix: string }): Deliveries {
  const { redis, prefix } = options;
  const epochKey = `${prefix}:epoch`;
  let epoch: string | undefined;

  async function push(where: 'LPUSH' | 'RPUSH', queue: string, entries: readonly Entry[]): Promise<void> {
    const key = `${prefix}:${queue}:`;
    const keys = [`${key}wait`, `${key}meta`, `${key}marker`];
    const args = entries.flatMap(({ id, data }) => [id, data]);
    await redis.eval(addScript, keys.length, ...keys, key, Date.now(), entryOptions, where, ...args);
  }

  return {
    async add(deliveries, sizes) {
      // What is sent to a connection that is not there fails at once; nothing is gained by sending the rest.
      for (const [name, group] of Map.groupBy(deliveries, (delivery) => delivery.queue)) {
        const entries = packEntries(group, sizes?.get(name) ?? 1);
        for (let start = 0; start < entries.length; start += addMax)
          await push('LPUSH', name, entries.slice(start, start + addMax));
      }
    },
    async giveBack(deliveries) {
      for (const [name, group] of Map.groupBy(deliveries, (delivery) => delivery.queue))
        await push('RPUSH', name, packEntries(group.toReversed(), 1));
    },
    async listMissing(deliveries) {
      const missing: QueueDelivery[] = [];
      for (const [name, group] of Map.groupBy(deliveries, (delivery) => delivery.queue)) {
        const key = `${prefix}:${name}:`;
        const ids = group.map(deliveryId);
        const answer: unknown = await redis.eval(missingScript, 2, `${key}wait`, `${key}active`, key, ...ids);
        const gone = new Set(Array.isArray(answer) ? answer : []);
        missing.push(...group.filter((_, index) => gone.has(ids[index])));
      }
      return missing;
    },
    async wasForgotten() {
      await redis.set(epochKey, randomUUID(), 'NX');
      const current = (await redis.get(epochKey)) ?? undefined;
      const isNew = current !== epoch;
      epoch = current;
      return isNew;
    },
    countWaiting: (name) => redis.llen(`${prefix}:${name}:wait`),
    close() {
      redis.disconnect();
    },
  };
}
