/** What 200,000 waiting jobs cost: memory of Redis, and speed of accepting. */
import type { LoadOrder, LoadReport } from '../load-client.ts';
import { withDb } from '../drained.ts';
import { insertWaitingJobs } from '../insert-jobs.ts';
import { inTurns, runCount, type Measure } from '../measure.ts';
import { startApi, startProcess, startWorker } from '../processes.ts';
import { withRedis, type BenchWorld } from '../servers.ts';
import { request } from './accept.ts';

const connections = 64;

export const backlog: Measure = {
  name: 'backlog',
  async run(bench) {
    const waiting = bench.isQuick ? 20_000 : 200_000;
    const world = await bench.servers.makeWorld();
    const client = await startProcess('bench/load-client.ts', { world });
    const memory: number[] = [];
    const accept = async (name: string): Promise<number> => {
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
      bench.log(`backlog, ${name}: ${Math.round(report.perSecond)}/s`);
      return report.perSecond;
    };
    try {
      const runs = await inTurns(runCount(bench), {
        ours: async () => {
          await world.empty();
          const before = await usedMiB(world);
          await withDb(world, async (db) => {
            await insertWaitingJobs(db, { task: 'test.noop', queue: 'noop', count: waiting });
            await db.query('VACUUM (ANALYZE) jobs');
          });
          // One slot whose worker stops at once: it fills the window, as a feeder beside busy workers does.
          await (await startWorker(world, 'noop:1')).stop();
          memory.push((await usedMiB(world)) - before);
          return accept(`${waiting} waiting`);
        },
        reference: async () => {
          await world.empty();
          return accept('empty queue');
        },
      });
      return [
        {
          what: `Accepted with ${waiting.toLocaleString('en-US')} jobs waiting`,
          unit: 'requests/s',
          ...runs,
          referenceIs: 'the same, nothing waiting',
          reach: { atLeast: 0.9 },
        },
        {
          what: `Memory of Redis with ${waiting.toLocaleString('en-US')} jobs waiting, more than empty`,
          unit: 'MiB',
          ours: memory,
          reach: { atMost: 20 },
        },
      ];
    } finally {
      await client.stop();
    }
  },
};

async function usedMiB(world: BenchWorld): Promise<number> {
  const info = await withRedis(world.redisUrl, (redis) => redis.info('memory'));
  return Number(/used_memory:(\d+)/.exec(info)?.[1] ?? Number.NaN) / 1024 / 1024;
}
