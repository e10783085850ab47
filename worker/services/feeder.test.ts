import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { Redis } from 'ioredis';
import { createAcceptJobs } from '#shared/db/accept-jobs.ts';
import { createClaimJobs, type Delivery } from '#shared/db/claim-jobs.ts';
import { ensureQueues } from '#shared/db/feed-queues.ts';
import { createDb, type Db } from '#shared/db/pool.ts';
import { registerWorker } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createLogger } from '#shared/log.ts';
import { createProducerConnection } from '#shared/queue/connections.ts';
import { bundleMax, deliveryId } from '#shared/queue/bundles.ts';
import { createDeliveries, type Deliveries } from '#shared/queue/deliveries.ts';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createFeeder } from './feeder.ts';

const log = createLogger({ service: 'test', level: 'silent' });
const jobCount = 300;

let world: World;
let db: Db;
let redis: Redis;
const opened: Deliveries[] = [];

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 8, timeoutMs: 10_000, name: 'test' });
  redis = new Redis(world.redisUrl);
  await ensureQueues(db, ['q']);
});
afterEach(async () => {
  for (const deliveries of opened.splice(0)) deliveries.close();
  redis.disconnect();
  await db.end();
  await world.dispose();
});

/** As in three workers: each on a connection to Redis of its own. */
async function createFeeders() {
  return Promise.all(
    [1, 2, 3].map(async () => {
      const connection = createProducerConnection(world.redisUrl, log);
      await waitFor(() => (connection.status === 'ready' ? true : undefined), { what: 'the connection' });
      const deliveries = createDeliveries({ redis: connection, prefix: world.redisPrefix });
      opened.push(deliveries);
      let added = 0;
      const counting: Deliveries = {
        ...deliveries,
        add(some, sizes) {
          added += some.length;
          return deliveries.add(some, sizes);
        },
      };
      return {
        ...createFeeder({
          db,
          queues: ['q'],
          deliveries: counting,
          signals: { ended: () => undefined },
          log,
        }),
        added: () => added,
      };
    }),
  );
}

test('F41: three that feed and repair at once put every waiting job into Redis once', async () => {
  await registerTestWorker(db, { q: 2 * jobCount });
  await db.query('UPDATE queues SET is_paused = true');
  const accepts = createAcceptJobs(db);
  const jobs = Array.from({ length: jobCount }, () => newJob());
  await Promise.all(jobs.map((job) => accepts.add(job)));
  await db.query('UPDATE queues SET is_paused = false');
  const expected = jobs.map((job) => deliveryId({ jobId: job.id, fence: 0 })).toSorted();
  const list = `${world.redisPrefix}:q:wait`;
  const listed = async () => (await redis.lrange(list, 0, -1)).toSorted();

  const feeders = await createFeeders();
  for (const feeder of feeders) feeder.start();
  await waitFor(async () => ((await listed()).length >= jobCount ? true : undefined), {
    what: 'all jobs to be in Redis',
  });
  await Promise.all(feeders.map((feeder) => feeder.stop()));
  expect(await listed()).toEqual(expected);
  // What one has marked and not yet added is missing in the eyes of another that repairs: that may be added twice.
  expect(feeders.reduce((sum, feeder) => sum + feeder.added(), 0)).toBeLessThanOrEqual(3 * jobCount);

  const entries = expected.map((id) => `${world.redisPrefix}:q:${id}`);
  for (const lose of [
    () => redis.ltrim(list, 0, jobCount / 2 - 1),
    () => redis.unlink(list, ...entries.slice(0, jobCount / 2)),
    () => redis.unlink(list, ...entries),
  ]) {
    await lose();
    await Promise.all(feeders.map((feeder) => feeder.repair()));
    expect(await listed()).toEqual(expected);
  }
});

test('a window that is empty by the time it was looked at is filled again at once, and not at the next round', async () => {
  const worker = { id: uuidv7(), host: 'h', pid: 1, version: '0', slots: { q: 8 } };
  await registerWorker(db, { ...worker, isolation: 'process' }, 60_000);
  const claims = createClaimJobs(db, { id: worker.id, tasks: ['t'] });
  const inRedis: Delivery[] = [];
  let taken = 0;
  let rounds = 0;
  const deliveries = {
    add: async (some: readonly Delivery[]) => {
      inRedis.push(...some);
      setImmediate(() => void takeAll());
    },
    wasForgotten: async () => false,
    listMissing: async () => [],
  } as unknown as Deliveries;
  async function takeAll(): Promise<void> {
    for (const delivery of inRedis.splice(0)) {
      await claims.add(delivery);
      feeder.noteTaken('q');
      taken += 1;
    }
  }
  const feeder = createFeeder({
    db: takingBeforeCommit(db, async () => {
      rounds += 1;
      await takeAll();
    }),
    queues: ['q'],
    deliveries,
    signals: { ended: () => undefined },
    log,
  });
  // A round that nobody woke never comes.
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(async () => {
    vi.useRealTimers();
    await feeder.stop();
  });
  /** For eight seconds; the clock of timers moves by less than a round meanwhile. */
  async function runUntil(isDone: () => boolean): Promise<void> {
    for (let step = 0; step < 400 && !isDone(); step += 1) {
      vi.advanceTimersByTime(1);
      const untilMs = performance.now() + 20;
      while (performance.now() < untilMs && !isDone()) await new Promise((resolve) => setImmediate(resolve));
    }
  }
  feeder.start();
  await runUntil(() => rounds === 1);
  const accepts = createAcceptJobs(db);
  const jobs = Array.from({ length: 100 }, () => newJob());
  const accepted = await Promise.all(jobs.map((job) => accepts.add(job)));
  // Those that the window had room for went to Redis with their acceptance; the others wait for the feeder.
  for (const [index, job] of jobs.entries()) {
    if (accepted[index]?.type === 'accepted' && accepted[index].isDispatched)
      inRedis.push({ jobId: job.id, fence: 0 });
  }
  // Eight, or as many for each of the statements that looked at the same moment.
  expect(inRedis.length % 8).toBe(0);
  expect(inRedis.length).toBeLessThan(jobs.length / 2);
  feeder.wake();
  await runUntil(() => taken === 100);
  expect(taken).toBe(100);
});

/** @param take runs at the end of each transaction, before others can see it. */
function takingBeforeCommit(inner: Db, take: () => Promise<void>): Db {
  const connect = async () => {
    const client = await inner.connect();
    const query = async (...args: unknown[]): Promise<unknown> => {
      if (args[0] === 'COMMIT') await take();
      return Reflect.apply(client.query, client, args);
    };
    return override(client, 'query', query);
  };
  return override(inner, 'connect', connect);
}

/** `target` with one method exchanged, for those who come by this object. */
function override<Target extends object>(target: Target, name: string, method: unknown): Target {
  return new Proxy(target, {
    get(_, key) {
      if (key === name) return method;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

test.each([
  { taken: [0, 0], size: 1 },
  { taken: [90, 30], size: 6 },
  { taken: [10_000, 10_000], size: bundleMax },
])('where two workers take $taken jobs a second, a bundle has $size', async ({ taken, size }) => {
  for (const perSecond of taken) {
    const id = uuidv7();
    const worker = { host: 'h', pid: 1, version: '0', slots: { q: jobCount }, isolation: 'process' } as const;
    await registerWorker(db, { ...worker, id }, 60_000);
    await db.query('UPDATE workers SET drain = $2 WHERE id = $1', [id, { q: perSecond }]);
  }
  // Takes nothing, and of this queue nothing.
  const others = { host: 'h', pid: 1, version: '0', isolation: 'process' } as const;
  const quiet = uuidv7();
  await registerWorker(db, { ...others, id: quiet, slots: { q: 5 } }, 60_000);
  await db.query('UPDATE workers SET quiet_at = now() WHERE id = $1', [quiet]);
  await registerWorker(db, { ...others, id: uuidv7(), slots: { other: 5 } }, 60_000);
  await db.query('UPDATE queues SET is_paused = true');
  const accepts = createAcceptJobs(db);
  await Promise.all(Array.from({ length: jobCount }, () => accepts.add(newJob())));
  await db.query('UPDATE queues SET is_paused = false');

  const [feeder] = await createFeeders();
  feeder?.start();
  const entries = Math.ceil(jobCount / size);
  let seen = 0;
  const listed = async () => (seen = await redis.llen(`${world.redisPrefix}:q:wait`));
  await waitFor(async () => ((await listed()) === entries ? true : undefined), {
    what: `${entries} entries`,
    seen: () => seen,
  });
  await feeder?.stop();
});
