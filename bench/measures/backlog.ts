/** What 1,000,000 waiting jobs cost: memory of Redis, speed of accepting, speed of draining. */
import type { LoadOrder, LoadReport } from '../load-client.ts';
import { withDb } from '../drained.ts';
import { insertWaitingJobs, multiplyWaitingJob } from '../insert-jobs.ts';
import { inTurns, runCount, type Bench, type Measure } from '../measure.ts';
import { startApi, startProcess, startWorker, type BenchProcess } from '../processes.ts';
import { withRedis, type BenchWorld } from '../servers.ts';
import { request } from './accept.ts';

const connections = 64;
const concurrency = 50;

export const backlog: Measure = {
  name: 'backlog',
  async run(bench) {
    const waiting = bench.isQuick ? 20_000 : 1_000_000;
    const [full, empty] = [await bench.servers.makeWorld(), await bench.servers.makeWorld()];
    const client = await startProcess('bench/load-client.ts', { world: empty });
    try {
      await withDb(full, (db) =>
        multiplyWaitingJob(db, { task: 'test.noop', queue: 'noop', count: waiting }),
      );
      const memory = await measureMemory(full);
      const accepts = await inTurns(runCount(bench), {
        ours: () => accept(bench, client, full),
        reference: () => accept(bench, client, empty),
      });
      const drains = await inTurns(runCount(bench), {
        ours: () => drainSome(bench, full),
        reference: async () => {
          // As many as will be taken, so that this one does not know a backlog either way.
          await withDb(empty, (db) =>
            insertWaitingJobs(db, { task: 'test.noop', queue: 'noop', count: 30_000 }),
          );
          return drainSome(bench, empty);
        },
      });
      const jobs = waiting.toLocaleString('en-US');
      return [
        {
          what: `Accepted with ${jobs} jobs waiting`,
          unit: 'requests/s',
          ...accepts,
          referenceIs: 'the same, hardly anything waiting',
          reach: { atLeast: 0.9 },
        },
        {
          what: `Drained with ${jobs} jobs waiting, concurrency ${concurrency}`,
          unit: 'jobs/s',
          ...drains,
          referenceIs: 'the same, 30,000 waiting',
          reach: { atLeast: 0.9 },
        },
        {
          what: `Memory of Redis with ${jobs} jobs waiting, more than empty`,
          unit: 'MiB',
          ours: [memory],
          reach: { atMost: 20 },
        },
      ];
    } finally {
      await client.stop();
    }
  },
};

async function accept(bench: Bench, client: BenchProcess, world: BenchWorld): Promise<number> {
  // Started anew each time, so that both begin with the same plans and caches.
  const api = await startApi(world);
  const order: LoadOrder = {
    connections,
    port: api.ready.port,
    request: request('/v1/jobs', { task: 'test.noop', input: { n: 1 } }),
    warmUpMs: 1_000,
    measureMs: bench.isQuick ? 1_000 : 4_000,
  };
  const report = await client.ask<LoadReport>(order);
  await api.stop();
  if (report.errors > 0) throw new Error(`${report.errors} requests were refused.`);
  bench.log(`backlog, accept: ${Math.round(report.perSecond)}/s`);
  return report.perSecond;
}

/** Jobs that ended in some seconds of one worker, after its first ones. */
async function drainSome(bench: Bench, world: BenchWorld): Promise<number> {
  const worker = await startWorker(world, `noop:${concurrency}`);
  try {
    return await withDb(world, async (db) => {
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      const { rows } = await db.query<{ at: Date }>('SELECT clock_timestamp() AS at');
      const at = rows[0]?.at;
      await new Promise((resolve) => setTimeout(resolve, bench.isQuick ? 1_000 : 3_000));
      const ended = await db.query<{ per_second: number }>(
        `SELECT (count(*) / extract(epoch FROM clock_timestamp() - $1))::float8 AS per_second FROM events
         WHERE type = 'job.succeeded' AND at >= $1`,
        [at],
      );
      const perSecond = ended.rows[0]?.per_second ?? Number.NaN;
      bench.log(`backlog, drain: ${Math.round(perSecond)}/s`);
      return perSecond;
    });
  } finally {
    await worker.stop();
  }
}

/** One slot whose worker stops at once: it fills the window, as a feeder beside busy workers does. */
async function measureMemory(world: BenchWorld): Promise<number> {
  const before = await usedMiB(world);
  await (await startWorker(world, 'noop:1')).stop();
  return (await usedMiB(world)) - before;
}

async function usedMiB(world: BenchWorld): Promise<number> {
  const info = await withRedis(world.redisUrl, (redis) => redis.info('memory'));
  return Number(/used_memory:(\d+)/.exec(info)?.[1] ?? Number.NaN) / 1024 / 1024;
}
