/** How many jobs that do nothing one worker process finishes in a second, beside a bare BullMQ worker. */
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { readDrainRate, waitUntilDrained, withDb } from '../drained.ts';
import { insertWaitingJobs } from '../insert-jobs.ts';
import { inTurns, runCount, type Bench, type Figure, type Measure } from '../measure.ts';
import { startReference, startWorker } from '../processes.ts';
import type { BenchWorld } from '../servers.ts';

export const drain: Measure = {
  name: 'drain',
  async run(bench) {
    return [await measureDrain(bench, 50, 0.35), await measureDrain(bench, 200, 0.45)];
  },
};

async function measureDrain(bench: Bench, concurrency: number, atLeast: number): Promise<Figure> {
  const size = bench.isQuick ? { warmUp: 1_000, total: 4_000 } : { warmUp: 5_000, total: 25_000 };
  const world = await bench.servers.makeWorld();
  const runs = await inTurns(runCount(bench), {
    ours: async () => {
      const perSecond = await drainOurs(world, concurrency, size);
      bench.log(`drain ${concurrency}, ours: ${Math.round(perSecond)}/s`);
      return perSecond;
    },
    reference: async () => {
      const perSecond = await drainReference(world, concurrency, size);
      bench.log(`drain ${concurrency}, reference: ${Math.round(perSecond)}/s`);
      return perSecond;
    },
  });
  return {
    what: `No-op jobs, one worker process, concurrency ${concurrency}`,
    unit: 'jobs/s',
    ...runs,
    referenceIs: 'bare BullMQ worker',
    reach: { atLeast },
  };
}

interface Size {
  /** Jobs finished before the clock starts. */
  readonly warmUp: number;
  readonly total: number;
}

export async function drainOurs(world: BenchWorld, concurrency: number, size: Size): Promise<number> {
  await world.empty();
  return withDb(world, async (db) => {
    await insertWaitingJobs(db, { task: 'test.noop', queue: 'noop', count: size.total });
    const worker = await startWorker(world, `noop:${concurrency}`);
    try {
      await waitUntilDrained(db);
    } finally {
      await worker.stop();
    }
    return readDrainRate(db, size);
  });
}

async function drainReference(
  world: BenchWorld,
  concurrency: number,
  { warmUp, total }: Size,
): Promise<number> {
  await world.empty();
  const connection = new Redis(world.redisUrl, { maxRetriesPerRequest: null });
  const queue = new Queue('reference', { connection });
  for (let added = 0; added < total; added += 1_000) {
    const group = Array.from({ length: Math.min(1_000, total - added) }, () => ({
      name: 'noop',
      data: { n: 1 },
      opts: { removeOnComplete: true },
    }));
    await queue.addBulk(group);
  }
  await queue.close();
  connection.disconnect();
  const worker = await startReference('drain', world, {
    CONCURRENCY: String(concurrency),
    WARM_UP: String(warmUp),
    TOTAL: String(total),
  });
  const { perSecond } = await worker.next<{ perSecond: number }>();
  await worker.stop();
  return perSecond;
}
