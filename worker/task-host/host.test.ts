import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { createLogger } from '#shared/log.ts';
import { spawnHost, type TaskHost } from './host.ts';
import { createHostDir } from './scratch.ts';

const limits = { memoryMax: 2 ** 31, fileBytesMax: 2 ** 30, jobsMax: 100, recycleRss: 2 ** 30 };
const log = createLogger({ service: 'test', level: 'silent' });

test('an input as large as the api accepts reaches the handler', async () => {
  const host = await startHost();
  const value = 'ä'.repeat(300_000);
  expect(await runTask(host, 'echo', { value })).toEqual({ type: 'returned' });
  // Too long for a message.
  const written = readFileSync(join(host.dir, 'run', 'result.json'), 'utf8');
  expect(written.includes(value)).toBe(true);
});

test('progress and delays that are no numbers, or have passed, are the mistake of a handler, not a broken protocol', async () => {
  const host = await startHost();
  const seen: number[] = [];
  const misreport = (total: number) =>
    runTask(host, 'misreport', { done: 0, total }, (percent) => seen.push(percent));
  const threw = { type: 'threw', kind: 'not-now', message: 'later' };
  expect(await misreport(0)).toEqual({ ...threw, delayMs: undefined });
  expect(await misreport(-1)).toEqual({ ...threw, delayMs: 0 });
  expect(seen.map(Math.abs)).toEqual([0, 0]);
  expect(host.isReusable()).toBe(true);
});

test('a soft time limit that passed before the run reached its host is told to the handler', async () => {
  const host = await startHost();
  const input = { ms: 600_000, endsSoftly: true };
  const end = await runTask(host, 'sleep', input, undefined, AbortSignal.abort());
  expect(end).toEqual({ type: 'returned', document: { result: { attempt: 1 }, outputs: [] } });
});

test('a host that cannot be started fails the run that asked for it, and nothing else', async () => {
  const dir = join(tmpdir(), 'windlass-no-such-directory');
  expect(() => spawnHost({ dir, limits, uid: undefined, compileCache: undefined, log })).toThrow(
    'could not be started',
  );
  // The reason arrives as an event one turn later, and must find a listener.
  await new Promise((resolve) => setImmediate(resolve));
});

async function startHost(): Promise<TaskHost> {
  const parent = mkdtempSync(join(tmpdir(), 'windlass-host-'));
  const dir = join(parent, 'host');
  await createHostDir(dir, undefined);
  const host = spawnHost({ dir, limits, uid: undefined, compileCache: undefined, log });
  onTestFinished(async () => {
    await host.kill();
    rmSync(parent, { recursive: true, force: true });
  });
  return host;
}

function runTask(
  host: TaskHost,
  task: string,
  input: unknown,
  onProgress: (percent: number) => void = () => {},
  softSignal = new AbortController().signal,
) {
  const runDir = join(host.dir, 'run');
  mkdirSync(join(runDir, 'out'), { recursive: true });
  return host.run(
    {
      type: 'run',
      jobId: '019abc00-0000-7000-8000-000000000000',
      tenantId: 'default',
      task: `test.${task}`,
      handlerUrl: new URL(`../../test/fixtures/tasks/${task}/handler.ts`, import.meta.url).href,
      attempt: 1,
      input,
      files: [],
      limits: { outputFilesMax: 10, outputFileBytesMax: 1_000, resultBytesMax: 1_000 },
      runDir,
    },
    {
      signal: new AbortController().signal,
      softSignal,
      onProgress,
      onLog: () => {},
    },
  );
}
