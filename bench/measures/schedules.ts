/** How late jobs of schedules start: from the instant that a schedule names to the start of its job. */
import { withDb } from '../drained.ts';
import { percentile, type Measure } from '../measure.ts';
import { benchKey, startApi, startWorker } from '../processes.ts';

const schedulesCount = 50;

export const schedules: Measure = {
  name: 'schedules',
  async run(bench) {
    const seconds = bench.isQuick ? 5 : 20;
    const world = await bench.servers.makeWorld();
    const api = await startApi(world);
    const worker = await startWorker(world, 'noop:50');
    try {
      for (let number = 0; number < schedulesCount; number += 1) {
        const answer = await fetch(`http://127.0.0.1:${api.ready.port}/v1/schedules/bench-${number}`, {
          method: 'PUT',
          headers: { authorization: `Bearer ${benchKey}`, 'content-type': 'application/json' },
          body: JSON.stringify({ task: 'test.noop', input: { n: number }, everyMs: 1_000 }),
        });
        if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
      return await withDb(world, async (db) => {
        // `run_at` of such a job is its tick. The first seconds are spent compiling.
        const { rows } = await db.query<{ ms: number }>(
          `SELECT extract(epoch FROM started_at - run_at)::float8 * 1000 AS ms FROM jobs
           WHERE schedule_key IS NOT NULL AND started_at IS NOT NULL AND run_at > (SELECT min(run_at) FROM jobs) + interval '2 s'`,
        );
        const late = rows.map((row) => row.ms);
        if (late.length < schedulesCount) throw new Error(`Only ${late.length} jobs of schedules have run.`);
        bench.log(
          `schedules: ${late.length} ticks, p50 ${Math.round(percentile(late, 0.5))} ms, p99 ${Math.round(percentile(late, 0.99))} ms`,
        );
        return [
          {
            what: `Lateness of ${schedulesCount} schedules that are due every second, p99`,
            unit: 'ms',
            ours: [percentile(late, 0.99)],
            reach: { atMost: 1_000 },
          },
        ];
      });
    } finally {
      await Promise.all([api.stop(), worker.stop()]);
    }
  },
};
