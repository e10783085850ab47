/**
 * Beside Celery with Redis as broker and result backend: only when asked for (`--celery`), because it needs Python. Its worker
 * forks as many processes as there are cores, which is its default; ours is one process.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { inTurns, runCount, type Bench, type Figure, type Measure } from '../measure.ts';
import type { LoadOrder, LoadReport } from '../load-client.ts';
import { startApi, startProcess } from '../processes.ts';
import { withRedis, type BenchWorld } from '../servers.ts';
import { request } from './accept.ts';
import { drainOurs } from './drain.ts';

const run = promisify(execFile);
const directory = fileURLToPath(new URL('../references/', import.meta.url));
/** Debian's, where its packages are; whatever `python3` is first on the PATH may be another. */
const python = '/usr/bin/python3';

export const celery: Measure = {
  name: 'celery',
  async run(bench) {
    await install(bench);
    const world = await bench.servers.makeWorld();
    return [await measureEnqueue(bench, world), await measureDrain(bench, world)];
  },
};

async function measureEnqueue(bench: Bench, world: BenchWorld): Promise<Figure> {
  const total = bench.isQuick ? 1_000 : 10_000;
  const api = await startApi(world);
  const client = await startProcess('bench/load-client.ts', { world });
  const order: LoadOrder = {
    connections: 64,
    port: api.ready.port,
    request: request('/v1/jobs', { task: 'test.noop', input: { n: 1 } }),
    warmUpMs: 1_000,
    measureMs: bench.isQuick ? 1_000 : 4_000,
  };
  try {
    const runs = await inTurns(runCount(bench), {
      ours: async () => {
        await world.empty();
        const { perSecond } = await client.ask<LoadReport>(order);
        bench.log(`celery enqueue, ours: ${Math.round(perSecond)}/s`);
        return perSecond;
      },
      reference: async () => {
        await world.empty();
        const perSecond = await enqueue(world, total);
        bench.log(`celery enqueue, reference: ${Math.round(perSecond)}/s`);
        return perSecond;
      },
    });
    return {
      what: 'Accepted over HTTP, beside Celery’s delay() in a loop',
      unit: 'jobs/s',
      ...runs,
      referenceIs: 'Celery, broker and results in Redis',
      reach: { atLeast: 4 },
    };
  } finally {
    await Promise.all([api.stop(), client.stop()]);
  }
}

async function measureDrain(bench: Bench, world: BenchWorld): Promise<Figure> {
  const size = bench.isQuick ? { warmUp: 200, total: 1_000 } : { warmUp: 2_000, total: 20_000 };
  const runs = await inTurns(runCount(bench), {
    ours: async () => {
      const perSecond = await drainOurs(world, 50, size);
      bench.log(`celery drain, ours: ${Math.round(perSecond)}/s`);
      return perSecond;
    },
    reference: async () => {
      const perSecond = await drainCelery(world, size);
      bench.log(`celery drain, reference: ${Math.round(perSecond)}/s`);
      return perSecond;
    },
  });
  return {
    what: 'No-op jobs drained, beside a Celery worker',
    unit: 'jobs/s',
    ...runs,
    referenceIs: 'Celery, broker and results in Redis',
    reach: { atLeast: 4 },
  };
}

async function enqueue(world: BenchWorld, total: number): Promise<number> {
  const { stdout } = await run(python, ['celery_app.py', String(total)], {
    cwd: directory,
    env: celeryEnv(world),
  });
  return Number(stdout);
}

async function drainCelery(
  world: BenchWorld,
  { warmUp, total }: { warmUp: number; total: number },
): Promise<number> {
  await world.empty();
  await enqueue(world, total);
  const worker = spawn(
    python,
    [
      '-m',
      'celery',
      '-A',
      'celery_app',
      'worker',
      '--loglevel',
      'ERROR',
      '--without-gossip',
      '--without-mingle',
    ],
    // A group of its own, with the processes of its pool.
    { cwd: directory, env: celeryEnv(world), stdio: 'ignore', detached: true },
  );
  const ended = once(worker, 'exit');
  try {
    return await withRedis(world.redisUrl, async (redis) => {
      // Every result is a key: counting them costs Redis nothing that could be seen.
      const reached = async (count: number): Promise<number> => {
        const deadline = performance.now() + 300_000;
        while ((await redis.dbsize()) < count) {
          if (performance.now() > deadline) throw new Error('Celery did not finish within five minutes.');
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        return performance.now();
      };
      const [startMs, startCount] = [await reached(warmUp), await redis.dbsize()];
      return ((total - startCount) / ((await reached(total)) - startMs)) * 1_000;
    });
  } finally {
    // All is counted, and told to end in order it may wait for ever for a process of its pool.
    if (worker.pid !== undefined) process.kill(-worker.pid, 'SIGKILL');
    await ended;
  }
}

function celeryEnv(world: BenchWorld): NodeJS.ProcessEnv {
  // Debian's Celery refuses nothing as root but warns; PYTHONDONTWRITEBYTECODE leaves no cache beside our file.
  return {
    PATH: process.env['PATH'],
    REDIS_URL: world.redisUrl,
    PYTHONDONTWRITEBYTECODE: '1',
    C_FORCE_ROOT: '1',
    LANG: 'C.UTF-8',
  };
}

async function install(bench: Bench): Promise<void> {
  const isThere = () =>
    run(python, ['-c', 'import celery, redis']).then(
      () => true,
      () => false,
    );
  if (await isThere()) return;
  bench.log('Celery is not installed: installing python3-celery and python3-redis, once');
  await run('apt-get', ['update']).catch(() => {});
  await run('apt-get', ['install', '-y', '--no-install-recommends', 'python3-celery', 'python3-redis']).catch(
    () => {},
  );
  if (!(await isThere())) {
    throw new Error(
      'Celery could not be installed. On Debian, as root: apt-get install python3-celery python3-redis',
    );
  }
}
