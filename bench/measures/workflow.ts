/** A workflow of 1,000 steps, from the first byte of its request to its end: one step, 998 after it, one after all of them. */
import { runCount, type Measure } from '../measure.ts';
import { benchKey, startApi, startWorker } from '../processes.ts';

const steps = 1_000;

export const workflow: Measure = {
  name: 'workflow',
  async run(bench) {
    const world = await bench.servers.makeWorld();
    const api = await startApi(world);
    const worker = await startWorker(world, 'noop:50');
    const url = `http://127.0.0.1:${api.ready.port}/v1/workflows`;
    const headers = { authorization: `Bearer ${benchKey}`, 'content-type': 'application/json' };
    const once = async (): Promise<number> => {
      const startedMs = performance.now();
      const accepted = await fetch(url, { method: 'POST', headers, body: JSON.stringify(makeWorkflow()) });
      if (accepted.status !== 202) throw new Error(`${accepted.status} ${await accepted.text()}`);
      const { id } = (await accepted.json()) as { id: string };
      for (;;) {
        const { state } = (await (await fetch(`${url}/${id}`, { headers })).json()) as { state: string };
        if (state === 'succeeded') return (performance.now() - startedMs) / 1_000;
        if (state !== 'running') throw new Error(`The workflow is ${state}.`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    try {
      await once();
      const seconds: number[] = [];
      for (let run = 0; run < runCount(bench); run += 1) {
        seconds.push(await once());
        bench.log(`workflow: ${seconds.at(-1)?.toFixed(2)} s`);
      }
      return [
        {
          what: `A workflow of ${steps.toLocaleString('en-US')} steps, from the request to its end`,
          unit: 's',
          ours: seconds,
          reach: { atMost: 10 },
        },
      ];
    } finally {
      await Promise.all([api.stop(), worker.stop()]);
    }
  },
};

function makeWorkflow(): object {
  const noop = { task: 'test.noop', input: { n: 1 } };
  const middle = Array.from({ length: steps - 2 }, (_, number) => `step-${number}`);
  return {
    steps: {
      first: noop,
      ...Object.fromEntries(middle.map((name) => [name, { ...noop, after: ['first'] }])),
      last: { ...noop, after: middle },
    },
  };
}
