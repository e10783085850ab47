/** How fast one large file is stored, alone and as a form, and how much memory that takes. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { inTurns, runCount, type Figure, type Measure } from '../measure.ts';
import { benchKey, startApi, startReference } from '../processes.ts';

const MiB = 1024 * 1024;
const chunk = Buffer.alloc(MiB, 'windlass ');

export const upload: Measure = {
  name: 'upload',
  async run(bench) {
    const sizeBytes = (bench.isQuick ? 128 : 1024) * MiB;
    const world = await bench.servers.makeWorld();
    const api = await startApi(world);
    const reference = await startReference<{ port: number }>('upload', world);
    const growth: number[] = [];
    const measureWay = async (way: 'raw' | 'multipart'): Promise<Figure> => {
      const runs = await inTurns(runCount(bench), {
        ours: async () => {
          const memory = watchMemory(api.pid);
          const perSecond = await send(api.ready.port, way, sizeBytes);
          growth.push(memory.growthMiB());
          bench.log(`upload ${way}, ours: ${Math.round(perSecond)} MiB/s`);
          return perSecond;
        },
        reference: async () => {
          const perSecond = await send(reference.ready.port, 'raw', sizeBytes);
          bench.log(`upload ${way}, reference: ${Math.round(perSecond)} MiB/s`);
          return perSecond;
        },
      });
      return {
        what: `Upload of ${sizeBytes / MiB} MiB, ${way}`,
        unit: 'MiB/s',
        ...runs,
        referenceIs: 'pipeline to a file with SHA-256 and fsync',
        reach: { atLeast: 0.9 },
      };
    };
    try {
      // The first of each warms up.
      await send(api.ready.port, 'raw', 64 * MiB);
      await send(reference.ready.port, 'raw', 64 * MiB);
      const raw = await measureWay('raw');
      const multipart = await measureWay('multipart');
      return [raw, multipart, memoryFigure(growth)];
    } finally {
      await Promise.all([api.stop(), reference.stop()]);
    }
  },
};

function memoryFigure(growth: readonly number[]): Figure {
  return {
    what: 'Growth of resident memory of the api during an upload, at its peak',
    unit: 'MiB',
    ours: growth,
    reach: { atMost: 60 },
  };
}

/** @returns MiB a second, from the first byte to the answer. */
async function send(port: number, way: 'raw' | 'multipart', sizeBytes: number): Promise<number> {
  const boundary = 'bench-boundary';
  const head = Buffer.from(
    way === 'raw'
      ? ''
      : `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\nContent-Type: application/octet-stream\r\n\r\n`,
  );
  const tail = Buffer.from(way === 'raw' ? '' : `\r\n--${boundary}--\r\n`);
  const startedMs = performance.now();
  const req = request({
    port,
    host: '127.0.0.1',
    method: 'POST',
    path: '/v1/files',
    agent: false,
    headers: {
      authorization: `Bearer ${benchKey}`,
      'content-type':
        way === 'raw' ? 'application/octet-stream' : `multipart/form-data; boundary=${boundary}`,
      'content-length': head.length + sizeBytes + tail.length,
    },
  });
  const answered = once(req, 'response');
  // Answered before all was sent: nobody reads on.
  const refused = answered.then(([early]) => {
    if (!req.writableEnded)
      throw new Error(`The upload was refused with ${(early as IncomingMessage).statusCode}.`);
  });
  refused.catch(() => {});
  if (head.length > 0) req.write(head);
  for (let sent = 0; sent < sizeBytes; sent += chunk.length) {
    if (!req.write(chunk)) await Promise.race([once(req, 'drain'), refused]);
  }
  req.end(tail);
  const [response] = (await answered) as [IncomingMessage];
  const body = await text(response);
  if (response.statusCode !== 201)
    throw new Error(`The upload was answered with ${response.statusCode}: ${body}`);
  const perSecond = sizeBytes / MiB / ((performance.now() - startedMs) / 1_000);
  if (body.startsWith('{')) await deleteFile(port, (JSON.parse(body) as { id: string }).id);
  return perSecond;
}

/** Ten gigabytes are too much to leave lying about. */
async function deleteFile(port: number, id: string): Promise<void> {
  const headers = { authorization: `Bearer ${benchKey}` };
  await fetch(`http://127.0.0.1:${port}/v1/files/${id}`, { method: 'DELETE', headers });
}

/** The kernel's own high-water mark of a process (Linux): sampling would miss the peak. */
function watchMemory(pid: number): { growthMiB(): number } {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  const before = readKiB(pid, 'VmRSS');
  return { growthMiB: () => (readKiB(pid, 'VmHWM') - before) / 1024 };
}

function readKiB(pid: number, field: string): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? Number.NaN);
}
