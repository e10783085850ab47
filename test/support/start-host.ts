/** A task host without a worker around it. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { onTestFinished } from 'vitest';
import { createLogger } from '#shared/log.ts';
import { spawnHost, type HostLimits, type RunOrder, type TaskHost } from '#worker/task-host/host.ts';
import type { RunIo } from '#worker/task-host/host-run.ts';
import { createHostDir } from '#worker/task-host/scratch.ts';
import { openTokenPipe } from '#worker/task-host/token-pipe.ts';

export const limits: HostLimits = {
  memoryMax: 2 ** 31,
  fileBytesMax: 2 ** 30,
  jobsMax: 100,
  recycleRss: 2 ** 30,
};
export const log = createLogger({ service: 'test', level: 'silent' });

export async function startHost({
  shortRunMs,
  ...some
}: Partial<HostLimits> & { shortRunMs?: number } = {}): Promise<TaskHost> {
  const parent = mkdtempSync(join(tmpdir(), 'windlass-host-'));
  const dir = join(parent, 'host');
  await createHostDir(dir, undefined);
  const tokens = await openTokenPipe(parent);
  const host = spawnHost({
    dir,
    limits: { ...limits, ...some },
    uid: undefined,
    compileCache: undefined,
    tokens,
    ...(shortRunMs !== undefined && { shortRunMs }),
    log,
  });
  onTestFinished(async () => {
    await host.kill();
    rmSync(parent, { recursive: true, force: true });
  });
  return host;
}

export const never = new AbortController().signal;
export const io: RunIo = { signal: never, softSignal: never, onProgress: () => {}, onLog: () => {} };

/** @param handler its source. */
export function orderHandler(host: TaskHost, handler: string): RunOrder {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-handler-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const schema = '{ safeParse: (data) => ({ success: true, data }) }';
  writeFileSync(join(dir, 'task.ts'), `export const task = { input: ${schema}, output: ${schema} };`);
  writeFileSync(join(dir, 'handler.ts'), `export default ${handler};`);
  return orderRun(host, {
    task: dir,
    handlerUrl: pathToFileURL(join(dir, 'handler.ts')).href,
    input: {},
  });
}

export function orderRun(
  host: TaskHost,
  { task, handlerUrl, input }: { task: string; handlerUrl: string; input: unknown },
): RunOrder {
  const runDir = join(host.dir, 'run');
  mkdirSync(runDir, { recursive: true });
  return {
    jobId: '019abc00-0000-7000-8000-000000000000',
    tenantId: 'default',
    task,
    handlerUrl,
    attempt: 1,
    input,
    files: [],
    limits: { outputFilesMax: 10, outputFileBytesMax: 1_000, resultBytesMax: 1_000 },
    runDir,
  };
}
