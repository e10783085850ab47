/**
 * What the nemesis can do. Each fault breaks one thing and mends it again, or leaves it to whoever is responsible (the
 * supervisor starts what ended). Two faults of the same `target` never overlap; of different ones they do.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import type { Direction } from '#test/support/fault-proxy.ts';
import type { Cluster } from './cluster.ts';
import type { Random } from './random.ts';
import type { Supervised } from './supervised.ts';

/** One fault with everything that chance decides about it. */
export interface PlannedFault {
  readonly name: string;
  /** What it breaks; faults of one target exclude each other. */
  readonly target: string;
  /** How long it lasts; 0 for what happens at one moment. */
  readonly ms: number;
  run(cluster: Cluster): Promise<void>;
}

export interface FaultKind {
  readonly name: string;
  readonly weight: number;
  plan(random: Random, size: { apis: number; workers: number }): Omit<PlannedFault, 'name'>;
}

const clockJumpsMs = [-3_600_000, 3_600_000, 0];
const statements = ['accept-jobs', 'claim-jobs', 'settle-runs', 'renew-lease', 'feed-', 'COMMIT'];

const processFaults: readonly FaultKind[] = [
  ofProcess('kill-api', 4, 'api', { run: (process) => process.kill('SIGKILL') }),
  ofProcess('kill-worker', 8, 'worker', { run: (process) => process.kill('SIGKILL') }),
  ofProcess('stop-api', 2, 'api', { run: (process) => process.kill('SIGTERM') }),
  ofProcess('stop-worker', 3, 'worker', { run: (process) => process.kill('SIGTERM') }),
  ofProcess('freeze-api', 2, 'api', { ms: [300, 4_000], run: freeze }),
  ofProcess('freeze-worker', 4, 'worker', { ms: [200, 2_000], run: freeze }),
  // The lease of the torture's workers is 3 s.
  ofProcess('freeze-worker-beyond-lease', 4, 'worker', { ms: [4_000, 8_000], run: freeze }),
  ofProcess('freeze-worker-until-superseded', 3, 'worker', {
    ms: [9_000, 9_000],
    run: freezeUntilSuperseded,
  }),
  clockJump('shift-clock-api', 'api'),
  clockJump('shift-clock-worker', 'worker'),
];

const redisFaults: readonly FaultKind[] = [
  ofRedis('redis-flushall', 4, { run: (cluster) => redisCommand(cluster, 'FLUSHALL') }),
  ofRedis('redis-cut-clients', 2, {
    run: (cluster) => redisCommand(cluster, 'CLIENT', 'KILL', 'TYPE', 'normal'),
  }),
  ofRedis('redis-forget-scripts', 1, { run: (cluster) => redisCommand(cluster, 'SCRIPT', 'FLUSH') }),
  ofRedis('redis-kill', 2, {
    ms: [100, 2_000],
    async run({ redis }, ms) {
      await redis.kill();
      await sleep(ms);
      await redis.start();
    },
  }),
  ofRedis('redis-kill-and-lose-disk', 2, {
    ms: [100, 2_000],
    async run({ redis }, ms) {
      await redis.kill();
      await sleep(ms);
      await redis.startEmpty();
    },
  }),
  ofRedis('redis-read-only', 2, {
    ms: [500, 4_000],
    async run(cluster, ms) {
      // A primary that does not exist: it keeps what it has, and takes no writes.
      await redisCommand(cluster, 'REPLICAOF', '127.0.0.1', '1');
      await sleep(ms);
      await redisCommand(cluster, 'REPLICAOF', 'NO', 'ONE');
    },
  }),
  ofRedis('redis-freeze', 2, {
    ms: [500, 5_000],
    async run({ redis }, ms) {
      redis.freeze();
      await sleep(ms);
      redis.thaw();
    },
  }),
];

const postgresFaults: readonly FaultKind[] = [
  ofPostgres('postgres-immediate-stop', 2, { ms: [100, 2_000], run: restart('SIGQUIT') }),
  ofPostgres('postgres-kill', 1, { ms: [100, 2_000], run: restart('SIGKILL') }),
  ofPostgres('postgres-terminate-all', 3, { run: terminateAll }),
  ofPostgres('postgres-freeze', 1, {
    ms: [300, 4_000],
    async run({ postgres }, ms) {
      postgres.freeze();
      await sleep(ms);
      postgres.thaw();
    },
  }),
];

const networkFaults: readonly FaultKind[] = [
  ...(['postgres', 'redis'] as const).flatMap((server): FaultKind[] => {
    const target = `${server}-network`;
    const proxyOf = (cluster: Cluster) => (server === 'redis' ? cluster.redisProxy : cluster.postgresProxy);
    return [
      {
        name: `${server}-connections-cut`,
        weight: 2,
        plan: () => ({ target, ms: 0, run: async (cluster) => proxyOf(cluster).cut() }),
      },
      {
        name: `${server}-unreachable`,
        weight: 2,
        plan(random) {
          const ms = random.int(200, 3_000);
          return {
            target,
            ms,
            async run(cluster) {
              proxyOf(cluster).refuse();
              await sleep(ms);
              proxyOf(cluster).heal();
            },
          };
        },
      },
      {
        name: `${server}-black-hole`,
        weight: server === 'redis' ? 2 : 1,
        plan(random) {
          const ms = random.int(500, 4_000);
          const directions = random.pick<readonly Direction[]>([['up'], ['down'], ['up', 'down']]);
          return {
            target,
            ms,
            async run(cluster) {
              proxyOf(cluster).swallow(directions);
              await sleep(ms);
              proxyOf(cluster).heal();
            },
          };
        },
      },
    ];
  }),
  {
    name: 'postgres-answer-lost',
    weight: 6,
    plan(random) {
      const text = random.pick(statements);
      return {
        target: 'postgres-network',
        ms: 0,
        run: ({ postgresProxy }) => loseAnswer(postgresProxy, text),
      };
    },
  },
  {
    name: 'redis-answer-lost',
    weight: 2,
    plan: () => ({ target: 'redis-network', ms: 0, run: ({ redisProxy }) => loseAnswer(redisProxy, 'j_') }),
  },
  {
    name: 'client-answer-lost',
    weight: 4,
    plan(random, { apis }) {
      const index = random.int(0, apis - 1);
      return {
        target: `clients-of-api-${index + 1}`,
        ms: 0,
        run: async (cluster) => {
          const api = cluster.apis[index];
          if (api !== undefined) await loseAnswer(api.proxy, 'POST /v1/jobs');
        },
      };
    },
  },
  {
    name: 'client-connections-cut',
    weight: 2,
    plan(random, { apis }) {
      const index = random.int(0, apis - 1);
      return {
        target: `clients-of-api-${index + 1}`,
        ms: 0,
        run: async (cluster) => cluster.apis[index]?.proxy.cut(),
      };
    },
  },
];

export const faultKinds: readonly FaultKind[] = [
  ...processFaults,
  ...redisFaults,
  ...postgresFaults,
  ...networkFaults,
];

/** Everything works again, whatever was broken; what was killed is being started. */
export async function healAll(cluster: Cluster): Promise<void> {
  for (const { process, proxy } of cluster.apis) {
    proxy.heal();
    thaw(process);
  }
  for (const worker of cluster.workers) thaw(worker);
  cluster.postgresProxy.heal();
  cluster.redisProxy.heal();
  cluster.redis.thaw();
  cluster.postgres.thaw();
  await redisCommand(cluster, 'REPLICAOF', 'NO', 'ONE');
}

type Span = readonly [min: number, max: number];

function ofProcess(
  name: string,
  weight: number,
  kind: 'api' | 'worker',
  {
    ms: [min, max] = [0, 0],
    run,
  }: { ms?: Span; run: (process: Supervised, ms: number, cluster: Cluster) => Promise<void> },
): FaultKind {
  return {
    name,
    weight,
    plan(random, size) {
      const number = random.int(1, kind === 'api' ? size.apis : size.workers);
      const ms = random.int(min, max);
      return {
        target: `${kind}-${number}`,
        ms,
        run: (cluster) => run(processOf(cluster, kind, number), ms, cluster),
      };
    },
  };
}

function clockJump(name: string, kind: 'api' | 'worker'): FaultKind {
  return {
    name,
    weight: 2,
    plan(random, size) {
      const number = random.int(1, kind === 'api' ? size.apis : size.workers);
      const offsetMs = random.pick(clockJumpsMs);
      return {
        target: `${kind}-${number}`,
        ms: 0,
        async run(cluster) {
          const process = processOf(cluster, kind, number);
          if (process.isReady()) cluster.shiftClock(process, offsetMs);
        },
      };
    },
  };
}

function ofRedis(
  name: string,
  weight: number,
  fault: { ms?: Span; run: (cluster: Cluster, ms: number) => Promise<void> },
): FaultKind {
  return ofServer(name, weight, { target: 'redis', ...fault });
}

function ofPostgres(
  name: string,
  weight: number,
  fault: { ms?: Span; run: (cluster: Cluster, ms: number) => Promise<void> },
): FaultKind {
  return ofServer(name, weight, { target: 'postgres', ...fault });
}

function ofServer(
  name: string,
  weight: number,
  {
    target,
    ms: [min, max] = [0, 0],
    run,
  }: { target: string; ms?: Span; run: (cluster: Cluster, ms: number) => Promise<void> },
): FaultKind {
  return {
    name,
    weight,
    plan(random) {
      const ms = random.int(min, max);
      return { target, ms, run: (cluster) => run(cluster, ms) };
    },
  };
}

function processOf(cluster: Cluster, kind: 'api' | 'worker', number: number): Supervised {
  const process = kind === 'api' ? cluster.apis[number - 1]?.process : cluster.workers[number - 1];
  if (process === undefined) throw new RangeError(`There is no ${kind}-${number}.`);
  return process;
}

async function freeze(supervised: Supervised, ms: number): Promise<void> {
  const process = supervised.current();
  if (!process.isRunning()) return;
  process.signal('SIGSTOP');
  await sleep(ms);
  if (process.isRunning()) process.signal('SIGCONT');
}

/**
 * The worker wakes up in the moment that is the worst: another one has been given a job of it, and is running that. What it then
 * writes about its own run must find nothing.
 * @param ms at the latest
 */
async function freezeUntilSuperseded(supervised: Supervised, ms: number, cluster: Cluster): Promise<void> {
  const process = supervised.current();
  // One at a time: if all stood still nobody would take over, and nobody would be superseded.
  if (!process.isRunning() || frozenUntilSuperseded.has(cluster)) return;
  frozenUntilSuperseded.add(cluster);
  const until = performance.now() + ms;
  const client = new Client({ connectionString: cluster.postgres.url, connectionTimeoutMillis: 2_000 });
  client.on('error', () => undefined);
  process.signal('SIGSTOP');
  try {
    await client.connect();
    while (performance.now() < until && !(await isSuperseded(client, process.pid))) await sleep(20);
  } catch {
    // Postgres is broken as well: then it sleeps its time.
    await sleep(Math.max(0, until - performance.now()));
  } finally {
    if (process.isRunning()) process.signal('SIGCONT');
    frozenUntilSuperseded.delete(cluster);
    await client.end().catch(() => {});
  }
}

const frozenUntilSuperseded = new WeakSet<Cluster>();

async function isSuperseded(client: Client, pid: number): Promise<boolean> {
  const { rowCount } = await client.query(
    `SELECT FROM attempts a JOIN workers w ON w.id = a.worker_id AND w.pid = $1 JOIN jobs j ON j.id = a.job_id
     WHERE a.outcome = 'crashed' AND j.state = 'active' AND j.fence > a.fence AND j.worker_id <> a.worker_id LIMIT 1`,
    [pid],
  );
  return rowCount === 1;
}

function thaw(supervised: Supervised): void {
  const process = supervised.current();
  if (process.isRunning()) process.signal('SIGCONT');
}

function restart(signal: 'SIGQUIT' | 'SIGKILL') {
  return async ({ postgres }: Cluster, ms: number): Promise<void> => {
    await postgres.kill(signal);
    await sleep(ms);
    await postgres.start();
  };
}

/** Gives up after a while: perhaps nobody asks. */
async function loseAnswer(
  proxy: { loseAnswerTo(text: string): Promise<void>; heal(): void },
  text: string,
): Promise<void> {
  const isLost = await Promise.race([proxy.loseAnswerTo(text).then(() => true), sleep(2_000, false)]);
  if (!isLost) proxy.heal();
}

async function terminateAll({ postgres }: Cluster): Promise<void> {
  const client = new Client({ connectionString: postgres.adminUrl, connectionTimeoutMillis: 2_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'windlass' AND application_name LIKE 'windlass%'`,
    );
  } finally {
    await client.end().catch(() => {});
  }
}

async function redisCommand({ redis }: Cluster, name: string, ...args: string[]): Promise<void> {
  const client = new Redis(redis.url, { lazyConnect: true, retryStrategy: () => null });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.call(name, ...args);
  } finally {
    client.disconnect();
  }
}
