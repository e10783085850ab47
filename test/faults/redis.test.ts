/** Redis is lost, replaced, cut off or mistaken: every accepted job still ends once, because Postgres is the record. */
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import { expect, inject, test } from 'vitest';
import type { QueueDelivery } from '#shared/db/feed-queues.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createLogger } from '#shared/log.ts';
import { createProducerConnection } from '#shared/queue/connections.ts';
import { createDeliveries, type Deliveries } from '#shared/queue/deliveries.ts';
import { ownRedis, type OwnRedis } from '#test/support/own-servers.ts';
import { createClient, type ServiceProcess, type ServiceWorld } from '#test/support/service.ts';
import { parseLine } from '#test/support/check-log.ts';
import { withSystem } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { expectOneRunEach } from './expect-jobs.ts';

const losses: readonly { name: string; lose: (redis: OwnRedis) => Promise<unknown> }[] = [
  { name: 'F23: every job finishes once after FLUSHALL', lose: (redis) => command(redis.url, 'FLUSHALL') },
  {
    name: 'F24: every job finishes once after Redis was killed and came back with what was on its disk',
    async lose(redis) {
      await redis.kill();
      await redis.start();
    },
  },
  {
    name: 'F25: every job finishes once after Redis was killed and came back empty',
    async lose(redis) {
      await redis.kill();
      await redis.startEmpty();
    },
  },
];

test.concurrent.each(losses)('$name, with waiting, delayed and active jobs', ({ lose }) =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await system.startWorker();
    const active = [await system.submitGated(), await system.submitGated()];
    await system.started(active);
    for (let n = 0; n < 15; n += 1) await system.submit('test.echo', { value: n });
    for (let n = 0; n < 5; n += 1) await system.submit('test.noop', { n }, { delayMs: 1_500 });
    await system.submit('test.fail', { how: 'error', succeedsAt: 2 });
    await lose(redis);
    for (let n = 0; n < 5; n += 1) await system.submit('test.noop', { n });
    system.openGate();
    const jobs = await system.finished();
    expect(jobs.filter((job) => job.state !== 'succeeded')).toEqual([]);
    // The loss of Redis is no reason to run anything twice.
    expect(jobs.filter((job) => job.attempts.length !== (job['task'] === 'test.fail' ? 2 : 1))).toEqual([]);
  }),
);

test.concurrent('F26: after a fail-over that lost the last writes, workers go on with the new primary, without a storm of errors', () =>
  withSystem({ own: ['redis'], proxied: ['redis'] }, async (system, { redis }, proxies) => {
    const replica = await ownRedis();
    try {
      await command(replica.url, 'CONFIG', 'SET', 'masterauth', new URL(redis.url).password);
      await command(replica.url, 'REPLICAOF', '127.0.0.1', String(redis.port));
      const worker = await system.startWorker();
      const active = [await system.submitGated(), await system.submitGated()];
      await system.started(active);
      for (let n = 0; n < 10; n += 1) await system.submit('test.echo', { value: n });
      await untilInSync(replica);
      // From here on the old primary takes writes that the new one will never see.
      await command(replica.url, 'REPLICAOF', 'NO', 'ONE');
      await command(replica.url, 'CONFIG', 'SET', 'requirepass', new URL(redis.url).password);
      for (let n = 0; n < 10; n += 1) await system.submit('test.noop', { n });
      await command(redis.url, 'CONFIG', 'SET', 'masterauth', new URL(redis.url).password);
      await command(redis.url, 'REPLICAOF', '127.0.0.1', String(replica.port));
      proxies.redis.switchTo(replica.port);
      system.openGate();
      await expectOneRunEach(system);
      expect(countErrors(worker)).toBeLessThan(stormMin);
    } finally {
      await replica.dispose();
    }
  }));

test.concurrent('F27: while Redis refuses writes jobs are accepted, workers stay quiet, and go on when it takes them again', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    const worker = await system.startWorker();
    await system.submit('test.noop');
    await system.finished();
    // A replica of nothing answers READONLY to every write.
    await command(redis.url, 'REPLICAOF', '127.0.0.1', '1');
    for (let n = 0; n < 20; n += 1) {
      await system.submit('test.noop', { n });
      await sleep(200);
    }
    await command(redis.url, 'REPLICAOF', 'NO', 'ONE');
    await expectOneRunEach(system);
    expect(countErrors(worker)).toBeLessThan(stormMin);
  }));

test.concurrent('deliveries that Redis holds in no list (it evicts keys, for example) are missing, and can be added again', () =>
  withSystem({}, async ({ world }) =>
    withDeliveries(world, async (deliveries) => {
      const added = [0, 1].map((fence) => ({ jobId: uuidv7(), fence, queue: 'nobody' }));
      const list = `${world.redisPrefix}:nobody:wait`;
      await deliveries.add(added);
      expect(await deliveries.listMissing(added)).toEqual([]);
      await command(world.redisUrl, 'DEL', list);
      expect(await deliveries.listMissing(added)).toEqual(added);
      await deliveries.add(added);
      expect(await command(world.redisUrl, 'LLEN', list)).toBe(2);
      expect(await deliveries.listMissing(added)).toEqual([]);
    }),
  ));

test.concurrent('F28: while Redis is full jobs are accepted and running ones finish, and the rest runs when there is room', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await system.startWorker();
    const active = [await system.submitGated(), await system.submitGated()];
    await system.started(active);
    await command(redis.url, 'CONFIG', 'SET', 'maxmemory', '1');
    for (let n = 0; n < 10; n += 1) await system.submit('test.noop', { n });
    system.openGate();
    await system.finished(active);
    await command(redis.url, 'CONFIG', 'SET', 'maxmemory', '0');
    await expectOneRunEach(system);
  }));

test.concurrent('F29: a Redis that is set up to evict keys is reported by the log of api and worker and by /readyz, and jobs run', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await command(redis.url, 'CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru');
    const [api, worker] = [await system.startApi(), await system.startWorker()];
    const client = createClient(api.url);
    const redisCheck = async () => {
      const response = await client.get('/readyz');
      const { checks } = (await response.json()) as { checks: { redis: string } };
      return [response.status, checks.redis] as const;
    };
    await waitFor(async () => ((await redisCheck())[1].startsWith('evicts keys') ? true : undefined), {
      what: '/readyz to report it',
      seen: redisCheck,
    });
    expect(await redisCheck()).toEqual([200, expect.stringContaining('allkeys-lru')]);
    for (const { lines } of [api, worker]) {
      await waitFor(
        () => (lines.some((line) => line.includes('set maxmemory-policy noeviction')) ? true : undefined),
        { what: 'the log to say it', seen: () => lines },
      );
    }
    await system.submit('test.noop');
    await expectOneRunEach(system);
  }));

test.concurrent('F30: while Redis is busy with a script, or loads its data, jobs are accepted, and they run when it answers again', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await system.startWorker();
    await command(redis.url, 'CONFIG', 'SET', 'busy-reply-threshold', '100');
    const script = command(redis.url, 'EVAL', 'while true do end', '0').catch((err: unknown) => String(err));
    await answersWith(redis.url, 'BUSY');
    for (let n = 0; n < 5; n += 1) await system.submit('test.noop', { n });
    await command(redis.url, 'SCRIPT', 'KILL');
    expect(await script).toContain('killed by user');
    await expectOneRunEach(system);

    // 400 keys at 10 ms each.
    await command(redis.url, 'DEBUG', 'POPULATE', '400', 'ballast');
    await command(redis.url, 'CONFIG', 'SET', 'key-load-delay', '10000');
    await command(redis.url, 'CONFIG', 'SET', 'loading-process-events-interval-bytes', '1024');
    const reload = command(redis.url, 'DEBUG', 'RELOAD').catch((err: unknown) => String(err));
    await answersWith(redis.url, 'LOADING');
    for (let n = 0; n < 5; n += 1) await system.submit('test.noop', { n });
    await reload;
    await expectOneRunEach(system);
  }));

test.concurrent('F31, F32: no job is lost or run twice while connections are killed and scripts forgotten, again and again', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await system.startWorker();
    await system.startWorker();
    const killing = new AbortController();
    const killer = (async () => {
      while (!killing.signal.aborted) {
        await command(redis.url, 'CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
        await command(redis.url, 'SCRIPT', 'FLUSH');
        await sleep(200);
      }
    })();
    for (let n = 0; n < 60; n += 1)
      await system.submit(n % 3 === 0 ? 'test.echo' : 'test.noop', n % 3 === 0 ? { value: n } : { n });
    await expectOneRunEach(system);
    killing.abort();
    await killer;
  }));

test.concurrent.each([
  { name: 'in both directions', directions: ['up', 'down'] },
  { name: 'in the direction of the answers', directions: ['down'] },
] as const)(
  'F33: jobs run again after connections to Redis swallowed everything for 20 s $name',
  ({ directions }) =>
    withSystem({ proxied: ['redis'] }, async (system, _servers, { redis }) => {
      await system.startWorker();
      const active = [await system.submitGated(), await system.submitGated()];
      await system.started(active);
      redis.swallow(directions);
      for (let n = 0; n < 10; n += 1)
        await system.submit(n % 2 === 0 ? 'test.noop' : 'test.echo', n % 2 === 0 ? { n } : { value: n });
      await sleep(10_000);
      // Results need no Redis.
      system.openGate();
      await system.finished(active);
      await sleep(10_000);
      expect(redis.swallowedBytes()).toBeGreaterThan(0);
      redis.heal();
      for (let n = 0; n < 5; n += 1) await system.submit('test.noop', { n });
      await expectOneRunEach(system);
    }),
);

test.concurrent('F34: an add whose answer was lost is one delivery and one run', () =>
  withSystem({ proxied: ['redis'] }, async (system, _servers, { redis }) => {
    await system.startWorker({ REDIS_URL: system.world.redisUrl });
    // The first call on a connection loads scripts; the one that counts comes after it.
    await system.submit('test.noop', { n: 0 });
    await system.finished();
    const lost = redis.loseAnswerTo('j_');
    await system.submit('test.noop', { n: 1 });
    await lost;
    await system.submit('test.noop', { n: 2 });
    await expectOneRunEach(system);
  }));

test.concurrent('F35: when Redis stalls for longer than its lock on a delivery, the second worker that gets it is refused', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await system.startWorker();
    const ids = [await system.submitGated(), await system.submitGated()];
    await system.started(ids);
    await system.startWorker();
    redis.freeze();
    // Longer than the lock of shared/queue/consumer.ts.
    await sleep(7_000);
    redis.thaw();
    // BullMQ finds both stalled and gives them to the worker with free slots, which drops them.
    const entries = ids.map((id) => `${system.world.redisPrefix}:host:j_${id}_0`);
    await waitFor(async () => ((await command(redis.url, 'EXISTS', ...entries)) === 0 ? true : undefined), {
      what: 'the deliveries of the running jobs to be taken a second time',
    });
    expect((await Promise.all(ids.map((id) => system.client.job(id)))).map((job) => job.state)).toEqual([
      'active',
      'active',
    ]);
    system.openGate();
    await expectOneRunEach(system);
    expect((await system.started(ids)).map((pids) => pids.length)).toEqual([1, 1]);
  }));

test.concurrent('F36, F37: deliveries that come twice, too late, for no job, or from someone else change nothing', () =>
  withSystem({}, async (system) => {
    const worker = await system.startWorker();
    const ended = await system.submit('test.sleep', { dir: system.marks });
    await system.finished();
    const active = [await system.submitGated(), await system.submitGated()];
    await system.started(active);
    // Both slots are taken, so it waits, with fence 0.
    const queued = await system.submitGated();
    await withDeliveries(system.world, async (deliveries) => {
      // In a queue with free slots: a delivery names a job, whatever queue it came by.
      const forged = [ended, ...active, queued, uuidv7()].flatMap((jobId) =>
        [1, 2, 3].map((fence) => ({ jobId, fence, queue: 'noop' })),
      );
      forged.push({ jobId: ended, fence: 0, queue: 'noop' });
      for (let round = 0; round < 3; round += 1) {
        await deliveries.add(forged);
        await untilTaken(deliveries, forged);
      }
    });
    const redis = new Redis(system.world.redisUrl);
    const foreign = `${system.world.redisPrefix}:noop`;
    await redis
      .multi()
      .hset(`${foreign}:j_not-ours`, { name: 'd', data: '{}', opts: '{}', timestamp: '1' })
      .lpush(`${foreign}:wait`, 'j_not-ours')
      .zadd(`${foreign}:marker`, 0, '0')
      .exec();
    await waitFor(() => (worker.lines.some((line) => line.includes('not ours')) ? true : undefined), {
      what: 'the foreign delivery to be dropped',
    });
    redis.disconnect();
    system.openGate();
    await expectOneRunEach(system);
    expect(readdirSync(system.marks).filter((name) => name.startsWith('started-'))).toHaveLength(4);
  }));

test.concurrent('F38: after Postgres was restored to an older state, what Redis holds too much of is dropped, and every job of the backup runs once', () =>
  withSystem({}, async (system) => {
    const { world } = system;
    const kept = [await system.submit('test.noop', { n: 1 }), await system.submit('test.echo', { value: 2 })];
    await system.api.kill('SIGTERM');
    await administrate(world, (name) => [`CREATE DATABASE ${name}_backup TEMPLATE ${name} OWNER windlass`]);

    // What the backup does not know: new jobs, and a later run of an old one. All of it waits in Redis.
    const between = await system.startApi();
    const client = createClient(between.url);
    const forgotten = [
      await client.submit('test.noop', { n: 3 }),
      await client.submit('test.echo', { value: 4 }),
    ];
    await withDeliveries(world, (deliveries) =>
      deliveries.add([{ jobId: kept[0] ?? '', fence: 7, queue: 'noop' }]),
    );
    await between.kill('SIGTERM');
    const redis = new Redis(world.redisUrl);
    system.onEnd(() => redis.disconnect());
    const entries = () => redis.keys(`${world.redisPrefix}:*:j_*`);
    expect(await entries()).toHaveLength(5);
    await administrate(world, (name) => [
      `DROP DATABASE ${name} WITH (FORCE)`,
      `ALTER DATABASE ${name}_backup RENAME TO ${name}`,
    ]);

    const restored = createClient((await system.startApi()).url);
    await system.startWorker();
    for (const id of kept) {
      const job = await restored.finished(id);
      expect([job.state, job.attempts.map((attempt) => attempt.outcome)]).toEqual([
        'succeeded',
        ['succeeded'],
      ]);
    }
    await waitFor(async () => ((await entries()).length === 0 ? true : undefined), {
      what: 'all deliveries to be dropped',
      seen: entries,
    });
    for (const id of forgotten) expect((await restored.get(`/v1/jobs/${id}`)).status).toBe(404);
    const { rows } = await system.db.query('SELECT count(*) AS count FROM jobs');
    expect(rows).toEqual([{ count: 2 }]);
  }));

/**
 * Seen in F27: 7 errors; 308 where a worker stays on the connection that answers READONLY, and thousands where the
 * processor is free.
 */
const stormMin = 100;

function countErrors({ lines }: ServiceProcess): number {
  return lines.filter((line) => parseLine(line)?.msg === 'worker error').length;
}

async function command(url: string, ...args: [string, ...string[]]): Promise<unknown> {
  const redis = new Redis(url, { retryStrategy: () => null, enableReadyCheck: false });
  try {
    return await redis.call(...args);
  } finally {
    redis.disconnect();
  }
}

async function untilInSync(replica: OwnRedis): Promise<void> {
  const redis = new Redis(replica.url);
  await waitFor(
    async () => ((await redis.info('replication')).includes('master_link_status:up') ? true : undefined),
    {
      what: 'the replica to be in sync',
    },
  );
  redis.disconnect();
}

async function withDeliveries(
  world: ServiceWorld,
  work: (deliveries: Deliveries) => Promise<void>,
): Promise<void> {
  const log = createLogger({ service: 'test', level: 'silent' });
  const redis = createProducerConnection(world.redisUrl, log);
  await waitFor(() => (redis.status === 'ready' ? true : undefined), { what: 'the connection' });
  const deliveries = createDeliveries({ redis, prefix: world.redisPrefix });
  try {
    await work(deliveries);
  } finally {
    deliveries.close();
  }
}

async function untilTaken(deliveries: Deliveries, added: readonly QueueDelivery[]): Promise<void> {
  await waitFor(
    async () => ((await deliveries.listMissing(added)).length === added.length ? true : undefined),
    {
      what: 'all deliveries to be taken and forgotten',
    },
  );
}

/** Runs statements about the database of this world as the superuser, when nobody uses it. */
async function administrate(
  { databaseUrl }: ServiceWorld,
  statements: (name: string) => readonly string[],
): Promise<void> {
  const name = new URL(databaseUrl).pathname.slice(1);
  const admin = new Client({ connectionString: inject('servers').postgresAdminUrl });
  await admin.connect();
  try {
    await admin.query('SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1', [
      name,
    ]);
    for (const sql of statements(name)) await admin.query(sql);
  } finally {
    await admin.end();
  }
}

/** Waits until Redis refuses commands with such an error. */
async function answersWith(url: string, error: string): Promise<void> {
  await waitFor(
    async () => {
      const answer = await command(url, 'GET', 'any').catch((err: unknown) => String(err));
      return String(answer).includes(error) ? true : undefined;
    },
    { what: `Redis to answer ${error}` },
  );
}
