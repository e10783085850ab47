/** How soon jobs run again whose worker was killed with -9, with the default lease: from the kill to the second start. */
import type { Db } from '#shared/db/pool.ts';
import { withDb } from '../drained.ts';
import { insertWaitingJobs } from '../insert-jobs.ts';
import { percentile, runCount, type Measure } from '../measure.ts';
import { startWorker } from '../processes.ts';
import type { BenchWorld } from '../servers.ts';

const jobs = 8;

export const recovery: Measure = {
  name: 'recovery',
  async run(bench) {
    const world = await bench.servers.makeWorld();
    const times: number[] = [];
    // Each kill gives a few times; the 95th of a hundred needs some kills.
    for (let kill = 0; kill < runCount(bench) * 4; kill += 1) {
      const found = await killOneOfTwo(world);
      times.push(...found);
      bench.log(`recovery: ${found.map((ms) => (ms / 1_000).toFixed(1)).join(', ')} s`);
    }
    const seconds = (share: number): number[] => [percentile(times, share) / 1_000];
    return [
      {
        what: 'Running again after kill -9 of the worker, p50',
        unit: 's',
        ours: seconds(0.5),
        reach: { atMost: 10 },
      },
      {
        what: 'Running again after kill -9 of the worker, p95',
        unit: 's',
        ours: seconds(0.95),
        reach: { atMost: 10 },
      },
    ];
  },
};

/** @returns for each job that the killed worker was running, ms until it ran again. */
async function killOneOfTwo(world: BenchWorld): Promise<number[]> {
  await world.empty();
  return withDb(world, async (db) => {
    // As many slots each as there are jobs: the other worker has room for all.
    const workers = [await startWorker(world, `host:${jobs}`), await startWorker(world, `host:${jobs}`)];
    try {
      await insertWaitingJobs(db, {
        task: 'test.sleep',
        queue: 'host',
        count: jobs,
        input: { ms: 600_000, ignoresAbort: true },
      });
      const before = await whenAllRun(db, undefined);
      const [victim] = before.keys();
      const { rows } = await db.query<{ pid: number; at: Date }>(
        'SELECT pid, clock_timestamp() AS at FROM workers WHERE id = $1',
        [victim],
      );
      if (rows[0] === undefined) throw new Error('The worker is not in the record.');
      process.kill(rows[0].pid, 'SIGKILL');
      const killedMs = rows[0].at.getTime();
      const lost = new Set(before.get(victim ?? '')?.map((job) => job.id));
      const after = [...(await whenAllRun(db, victim)).values()].flat();
      return after.filter((job) => lost.has(job.id)).map((job) => job.started_at.getTime() - killedMs);
    } finally {
      for (const worker of workers) {
        // They would wait for their jobs, which sleep for minutes.
        killIfRunning(worker.pid);
        await worker.stop();
      }
    }
  });
}

interface RunningJob {
  readonly id: string;
  readonly worker_id: string;
  readonly started_at: Date;
}

/** Waits until every job is active, none of them under `except`, at most a minute. @returns jobs by worker. */
async function whenAllRun(db: Db, except: string | undefined): Promise<Map<string, RunningJob[]>> {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const { rows } = await db.query<RunningJob>(
      `SELECT id, worker_id, started_at FROM jobs WHERE state = 'active' AND worker_id IS DISTINCT FROM $1`,
      [except ?? null],
    );
    if (rows.length === jobs) return Map.groupBy(rows, (row) => row.worker_id);
    if (performance.now() > deadline)
      throw new Error(`Only ${rows.length} of ${jobs} jobs run after a minute.`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function killIfRunning(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is the one that was killed.
  }
}
