import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { expect, onTestFinished, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';
import { deliveryId, unpackEntry } from './bundles.ts';
import { createDeliveries } from './deliveries.ts';

async function setup() {
  const world = await createWorld();
  const redis = new Redis(world.redisUrl, { maxRetriesPerRequest: null });
  const deliveries = createDeliveries({ redis, prefix: world.redisPrefix });
  onTestFinished(async () => {
    deliveries.close();
    await world.dispose();
  });
  /** All that Redis holds of a queue, without the stream of events that nobody reads. */
  const dump = async (queue: string) => {
    const key = `${world.redisPrefix}:${queue}:`;
    const found: Record<string, unknown> = {};
    for (const name of (await redis.keys(`${key}*`)).toSorted()) {
      const short = name.slice(key.length);
      if (short === 'events' || short === 'id') continue;
      const type = await redis.type(name);
      if (type === 'hash') found[short] = await redis.hgetall(name);
      else if (type === 'list') found[short] = await redis.lrange(name, 0, -1);
      else found[short] = await redis.zrange(name, 0, -1, 'WITHSCORES');
    }
    return found;
  };
  return { world, redis, deliveries, dump };
}

test('what is added is what BullMQ itself would have added', async () => {
  const { world, redis, deliveries, dump } = await setup();
  const jobs = [1, 2, 3].map((fence) => ({ jobId: uuidv7(), fence }));

  const queue = new Queue('theirs', {
    connection: redis,
    prefix: world.redisPrefix,
    streams: { events: { maxLen: 100 } },
  });
  for (const job of jobs) {
    await queue.add(
      'd',
      {},
      {
        jobId: deliveryId(job),
        attempts: 1,
        removeOnComplete: true,
        removeOnFail: true,
        timestamp: 1_700_000_000_000,
      },
    );
  }
  await queue.close();
  await deliveries.add(jobs.map((job) => ({ ...job, queue: 'ours' })));

  const theirs = await dump('theirs');
  const ours = await dump('ours');
  expect(Object.keys(ours)).toEqual(Object.keys(theirs));
  expect({ wait: ours['wait'], marker: ours['marker'] }).toEqual({
    wait: theirs['wait'],
    marker: theirs['marker'],
  });
  expect(ours['meta']).toMatchObject({ 'opts.maxLenEvents': '100' });
  for (const id of jobs.map(deliveryId)) {
    const [their, our] = [theirs[id], ours[id]] as Record<string, string>[];
    expect({ ...our, opts: JSON.parse(our?.['opts'] ?? ''), timestamp: '' }).toEqual({
      ...their,
      // BullMQ repeats in each entry what its key says and what is 0 anyway.
      opts: { attempts: 1, removeOnComplete: true, removeOnFail: true },
      timestamp: '',
    });
    expect(JSON.parse(their?.['opts'] ?? '')).toMatchObject(JSON.parse(our?.['opts'] ?? ''));
  }
});

test('a worker of BullMQ takes them, the first first, and leaves nothing of them behind', async () => {
  const { world, redis, deliveries } = await setup();
  const jobs = Array.from({ length: 600 }, (_, fence) => ({ jobId: uuidv7(), fence, queue: 'q' }));
  const taken: (string | undefined)[] = [];
  const connection = new Redis(world.redisUrl, { maxRetriesPerRequest: null });
  const worker = new Worker('q', async (job) => void taken.push(job.id), {
    connection,
    prefix: world.redisPrefix,
  });
  onTestFinished(async () => {
    await worker.close();
    connection.disconnect();
  });
  await worker.waitUntilReady();

  await deliveries.add(jobs);
  await waitFor(
    async () =>
      taken.length === jobs.length && (await redis.llen(`${world.redisPrefix}:q:active`)) === 0
        ? true
        : undefined,
    { what: 'the end of all' },
  );

  expect(taken).toEqual(jobs.map(deliveryId));
  const left = (await redis.keys(`${world.redisPrefix}:q:*`)).map((key) => key.split(':').at(-1));
  expect(left.filter((name) => name?.startsWith('j_'))).toEqual([]);
});

test('bundles are taken in their order, leave nothing behind, and what is in them is not missing', async () => {
  const { world, redis, deliveries } = await setup();
  const jobs = Array.from({ length: 40 }, (_, fence) => ({ jobId: uuidv7(), fence, queue: 'q' }));
  await deliveries.add(jobs, new Map([['q', 16]]));
  expect(await deliveries.countWaiting('q')).toBe(3);
  expect(await deliveries.listMissing(jobs)).toEqual([]);
  const taken: unknown[] = [];
  const connection = new Redis(world.redisUrl, { maxRetriesPerRequest: null });
  const worker = new Worker('q', async (job) => void taken.push(...(unpackEntry(job.id, job.data) ?? [])), {
    connection,
    prefix: world.redisPrefix,
  });
  onTestFinished(async () => {
    await worker.close();
    connection.disconnect();
  });
  const active = `${world.redisPrefix}:q:active`;
  await waitFor(async () => (taken.length === 40 && (await redis.llen(active)) === 0 ? true : undefined), {
    what: 'the end of all',
  });
  expect(taken).toEqual(jobs.map(({ jobId, fence }) => ({ jobId, fence })));
  const left = (await redis.keys(`${world.redisPrefix}:q:*`)).map((key) => key.split(':').at(-1));
  expect(left.filter((name) => /^[bj]_/.test(name ?? ''))).toEqual([]);
  expect(await deliveries.listMissing(jobs)).toEqual(jobs);
});

test.for(['the bundle', 'the list'])(
  'when Redis has evicted %s, all of the bundle is missing',
  async (what) => {
    const { world, redis, deliveries } = await setup();
    const jobs = [1, 2, 3].map((fence) => ({ jobId: uuidv7(), fence, queue: 'q' }));
    await deliveries.add(jobs, new Map([['q', 3]]));
    const key = `${world.redisPrefix}:q:`;
    const [bundle = ''] = await redis.lrange(`${key}wait`, 0, -1);
    // What no list names any more is gone some day.
    expect(await redis.ttl(`${key}${bundle}`)).toBeGreaterThan(3_600);
    await redis.del(what === 'the list' ? `${key}wait` : `${key}${bundle}`);
    expect(await deliveries.listMissing(jobs)).toEqual(jobs);
    await deliveries.add(jobs);
    expect(await deliveries.listMissing(jobs)).toEqual([]);
  },
);

test.for(['', '{', '17', '"j_1_1"', '[[1]]', '[nan]', '{"a":1}'])(
  'a bundle that somebody has filled with %j hinders nobody',
  async (data) => {
    const { world, redis, deliveries } = await setup();
    const jobs = [1, 2].map((fence) => ({ jobId: uuidv7(), fence, queue: 'q' }));
    await deliveries.add(jobs.slice(0, 1));
    await redis.hset(`${world.redisPrefix}:q:b_x`, { data });
    await redis.set(`${world.redisPrefix}:q:b_text`, 'x');
    await redis.rpush(`${world.redisPrefix}:q:wait`, 'b_x', 'b_gone', 'b_text');
    expect(await deliveries.listMissing(jobs)).toEqual(jobs.slice(1));
  },
);

test('adding one that is there already changes nothing', async () => {
  const { deliveries, dump } = await setup();
  const job = { jobId: uuidv7(), fence: 7, queue: 'q' };
  await deliveries.add([job]);
  const before = await dump('q');
  await deliveries.add([job]);
  expect(await dump('q')).toEqual(before);
  expect(await deliveries.countWaiting('q')).toBe(1);
  expect(await deliveries.listMissing([job])).toEqual([]);
});
