/** How many jobs a second one api process accepts durably, beside a handler that only adds to BullMQ. */
import { inTurns, runCount, type Measure } from '../measure.ts';
import type { LoadOrder, LoadReport } from '../load-client.ts';
import { benchKey, startApi, startProcess, startReference } from '../processes.ts';

const connections = 64;

export const accept: Measure = {
  name: 'accept',
  async run(bench) {
    const world = await bench.servers.makeWorld();
    const api = await startApi(world);
    const reference = await startReference<{ port: number }>('accept', world);
    const client = await startProcess('bench/load-client.ts', { world });
    const times = bench.isQuick
      ? { warmUpMs: 1_000, measureMs: 1_000 }
      : { warmUpMs: 1_000, measureMs: 4_000 };
    const load = async (name: string, target: Pick<LoadOrder, 'port' | 'request'>): Promise<LoadReport> => {
      await world.empty();
      const report = await client.ask<LoadReport>({ connections, ...times, ...target });
      if (report.errors > 0) throw new Error(`${name}: ${report.errors} requests were refused.`);
      bench.log(
        `${name}: ${Math.round(report.perSecond)}/s, p50 ${report.latencyMsP50.toFixed(1)} ms, p99 ${report.latencyMsP99.toFixed(1)} ms`,
      );
      return report;
    };
    const ours = () =>
      load('accept, ours', {
        port: api.ready.port,
        request: request('/v1/jobs', { task: 'test.noop', input: { n: 1 } }),
      });
    const theirs = () =>
      load('accept, reference', { port: reference.ready.port, request: request('/jobs', { n: 1 }) });
    try {
      // The first seconds of a process are spent compiling; a service runs for weeks.
      await ours();
      await theirs();
      const runs = await inTurns(runCount(bench), { ours, reference: theirs });
      return [
        {
          what: `POST /v1/jobs with key, validation and event, ${connections} connections`,
          unit: 'requests/s',
          ours: runs.ours.map((report) => report.perSecond),
          reference: runs.reference.map((report) => report.perSecond),
          referenceIs: 'Express handler that only calls queue.add',
          reach: { atLeast: 0.8 },
        },
      ];
    } finally {
      await Promise.all([api.stop(), reference.stop(), client.stop()]);
    }
  },
};

export function request(path: string, body: unknown): string {
  const json = JSON.stringify(body);
  const lines = [
    `POST ${path} HTTP/1.1`,
    'Host: 127.0.0.1',
    `Authorization: Bearer ${benchKey}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(json)}`,
  ];
  return `${lines.join('\r\n')}\r\n\r\n${json}`;
}
