/** From the first byte of a request to a readable result, on an idle service: POST, then GET with `?wait=`. */
import { percentile, runCount, type Measure } from '../measure.ts';
import { benchKey, startApi, startWorker } from '../processes.ts';

export const latency: Measure = {
  name: 'latency',
  async run(bench) {
    const world = await bench.servers.makeWorld();
    const api = await startApi(world);
    const worker = await startWorker(world, 'noop:50');
    const url = `http://127.0.0.1:${api.ready.port}/v1/jobs`;
    const headers = { authorization: `Bearer ${benchKey}`, 'content-type': 'application/json' };
    const once = async (): Promise<number> => {
      const startedMs = performance.now();
      const accepted = await fetch(url, {
        method: 'POST',
        headers,
        body: '{"task":"test.noop","input":{"n":1}}',
      });
      const { id } = (await accepted.json()) as { id: string };
      const job = (await (await fetch(`${url}/${id}?wait=10`, { headers })).json()) as { state: string };
      if (job.state !== 'succeeded') throw new Error(`The job is ${job.state}.`);
      return performance.now() - startedMs;
    };
    try {
      const p50: number[] = [];
      const p99: number[] = [];
      for (let warmUp = 0; warmUp < 100; warmUp += 1) await once();
      for (let run = 0; run < runCount(bench); run += 1) {
        const times: number[] = [];
        for (let count = 0; count < 200; count += 1) times.push(await once());
        p50.push(percentile(times, 0.5));
        p99.push(percentile(times, 0.99));
        bench.log(
          `latency: p50 ${percentile(times, 0.5).toFixed(1)} ms, p99 ${percentile(times, 0.99).toFixed(1)} ms`,
        );
      }
      return [
        { what: 'HTTP in → result readable, idle, p50', unit: 'ms', ours: p50, reach: { atMost: 10 } },
        { what: 'HTTP in → result readable, idle, p99', unit: 'ms', ours: p99, reach: { atMost: 30 } },
      ];
    } finally {
      await Promise.all([api.stop(), worker.stop()]);
    }
  },
};
