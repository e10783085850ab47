/** How long the first job of one tenant waits, with and without 100,000 jobs of another before it. */
import { withDb } from '../drained.ts';
import { insertWaitingJobs, multiplyWaitingJob } from '../insert-jobs.ts';
import { median, runCount, type Measure } from '../measure.ts';
import { startWorker } from '../processes.ts';
import type { BenchWorld } from '../servers.ts';

const probes = 10;

export const fairness: Measure = {
  name: 'fairness',
  async run(bench) {
    const waiting = bench.isQuick ? 10_000 : 100_000;
    const world = await bench.servers.makeWorld();
    const alone: number[] = [];
    const behind: number[] = [];
    for (let run = 0; run < runCount(bench); run += 1) {
      alone.push(await firstWaits(world, 0));
      behind.push(await firstWaits(world, waiting));
      bench.log(
        `fairness: ${Math.round(alone.at(-1) ?? 0)} ms alone, ${Math.round(behind.at(-1) ?? 0)} ms behind ${waiting}`,
      );
    }
    return [
      {
        what: `First job of a tenant while another has ${waiting.toLocaleString('en-US')} waiting (alone: ${Math.round(median(alone))} ms)`,
        unit: 'ms',
        ours: behind,
        // One window of the queue is about a second of work.
        reach: { atMost: 1_500 },
      },
    ];
  },
};

/** @returns the median wait of single jobs of tenant `b`, in ms, from acceptance to start. */
async function firstWaits(world: BenchWorld, waiting: number): Promise<number> {
  await world.empty();
  return withDb(world, async (db) => {
    await db.query(`INSERT INTO tenants (id) VALUES ('b') ON CONFLICT DO NOTHING`);
    if (waiting > 0) await multiplyWaitingJob(db, { task: 'test.noop', queue: 'noop', count: waiting });
    const worker = await startWorker(world, 'noop:10');
    try {
      const waits: number[] = [];
      for (let probe = 0; probe < probes; probe += 1) {
        await insertWaitingJobs(db, { task: 'test.noop', queue: 'noop', count: 1, tenantId: 'b' });
        for (;;) {
          const { rows } = await db.query<{ ms: number }>(
            `SELECT extract(epoch FROM started_at - created_at)::float8 * 1000 AS ms FROM jobs
             WHERE tenant_id = 'b' AND started_at IS NOT NULL ORDER BY id DESC`,
          );
          if (rows.length > probe) {
            waits.push(rows[0]?.ms ?? Number.NaN);
            break;
          }
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
      }
      return median(waits);
    } finally {
      await worker.stop();
    }
  });
}
