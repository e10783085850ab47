/**
 * Deliveries: what Redis holds of a job. A delivery is a BullMQ job named `j_<job id>_<fence>` without data, without
 * retries, gone when it was taken. All of it can be made again from Postgres, and adding one that exists is a
 * no-op, so every function here may fail or be repeated without harm.
 */
import { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { randomUUID } from 'node:crypto';
import type { QueueDelivery } from '../db/feed-queues.ts';
import { isUuid } from '../ids.ts';
import type { Logger } from '../log.ts';

export interface Deliveries {
  /** Adds them all. @throws when Redis is away or refuses (read-only, out of memory). */
  add(deliveries: readonly QueueDelivery[]): Promise<void>;
  /** Those that Redis does not hold, or holds where no worker would find them: what is left of these is deleted. */
  listMissing(deliveries: readonly QueueDelivery[]): Promise<QueueDelivery[]>;
  /** Has Redis been emptied since the last call? True on the first call and whenever the sentinel key is gone or new. */
  wasForgotten(): Promise<boolean>;
  /** Deliveries of a queue that no worker has taken. */
  countWaiting(queue: string): Promise<number>;
  close(): Promise<void>;
}

export function deliveryId(delivery: { jobId: string; fence: number }): string {
  return `j_${delivery.jobId}_${delivery.fence}`;
}

/** Undefined for anything that is not one of our ids: Redis is not trusted. */
export function parseDeliveryId(id: string | undefined): { jobId: string; fence: number } | undefined {
  const [mark, jobId, fence] = (id ?? '').split('_');
  if (mark !== 'j' || !isUuid(jobId) || fence === undefined || !/^\d{1,15}$/.test(fence)) return undefined;
  return { jobId, fence: Number(fence) };
}

/**
 * Which deliveries no worker would find? A delivery is an entry of its own and its id in a list; a Redis that evicts keys may
 * lose one of the two. An entry without its place has to go: adding it again would be refused as a repetition. One step,
 * because several workers may repair at once.
 * KEYS: the list of those that wait, the list of those that were taken. ARGV: what the keys of entries begin with, ids.
 * Answers the ids to add again.
 */
const missingScript = `
local listed = {}
for _, list in ipairs(KEYS) do
  for _, id in ipairs(redis.call('LRANGE', list, 0, -1)) do listed[id] = true end
end
local missing = {}
for index = 2, #ARGV do
  local entry = ARGV[1] .. ARGV[index]
  if redis.call('EXISTS', entry) == 0 then
    missing[#missing + 1] = ARGV[index]
  elseif not listed[ARGV[index]] then
    redis.call('DEL', entry)
    missing[#missing + 1] = ARGV[index]
  end
end
return missing`;

export function createDeliveries(options: { redis: Redis; prefix: string; log: Logger }): Deliveries {
  const { redis, prefix, log } = options;
  const queues = new Map<string, Queue>();
  const epochKey = `${prefix}:epoch`;
  let epoch: string | undefined;

  // A BullMQ Queue whose first contact with Redis failed stays broken for ever, so one is only made on a connection
  // that is ready, and thrown away when its first contact failed all the same.
  async function queueOf(name: string): Promise<Queue> {
    const known = queues.get(name);
    if (known !== undefined) return known;
    if (redis.status !== 'ready') throw new Error(`Redis is ${redis.status}.`);
    const queue = new Queue(name, {
      connection: redis,
      prefix,
      skipVersionCheck: true,
      streams: { events: { maxLen: 100 } },
    });
    queue.on('error', (err) => log.debug({ queue: name, err: err.message }, 'queue error'));
    queues.set(name, queue);
    try {
      await queue.waitUntilReady();
    } catch (err) {
      queues.delete(name);
      throw err;
    }
    return queue;
  }

  return {
    async add(deliveries) {
      for (const [name, group] of Map.groupBy(deliveries, (delivery) => delivery.queue)) {
        const queue = await queueOf(name);
        await queue.addBulk(
          group.map((delivery) => ({
            name: 'd',
            data: {},
            opts: { jobId: deliveryId(delivery), attempts: 1, removeOnComplete: true, removeOnFail: true },
          })),
        );
      }
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
    async countWaiting(name) {
      const queue = await queueOf(name);
      return queue.getWaitingCount();
    },
    async close() {
      await Promise.all([...queues.values()].map((queue) => queue.close().catch(() => {})));
      redis.disconnect();
    },
  };
}
