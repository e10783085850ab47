import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ownProcess } from '#scripts/embedded/owned-process.ts';
import type { Launched } from './supervise.ts';

export interface ServiceProcessOptions {
  /** "api", "worker 1" */
  readonly name: string;
  /** The main file, run by this Node. */
  readonly file: string;
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
  /** Time it is given to end in order, in ms; then it is killed. */
  readonly stopMs: number;
  readonly onLine: (line: string) => void;
  /** Ends the wait for readiness, and the process. */
  readonly signal: AbortSignal;
}

/** Longest wait for the ready message, in ms: the api may have a large database to migrate. */
const readyMs = 300_000;

/**
 * Runs one of our processes and waits until it says that it is ready. In a session of its own, because Ctrl-C would
 * otherwise reach all of them at the same time; it notices the end of this process by its IPC channel, and is
 * stopped by the watchdog if it does not.
 * @throws Error with its last lines when it ends before it is ready.
 */
export async function launchServiceProcess(options: ServiceProcessOptions): Promise<Launched> {
  const { name } = options;
  const child = spawn(process.execPath, [options.file], {
    cwd: options.cwd,
    env: options.env,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  const deadline = AbortSignal.any([options.signal, AbortSignal.timeout(readyMs)]);
  // Its only message says that it is ready.
  const ready = once(child, 'message', { signal: deadline }).then(
    () => 'ready' as const,
    () => 'stopped' as const,
  );
  const service = await ownProcess(child, {
    name,
    stopSignal: 'TERM',
    stopMs: options.stopMs,
    onLine: options.onLine,
  });
  const first = await Promise.race([ready, service.exited]);
  if (first === 'ready') return service;
  await service.stop();
  const how =
    options.signal.aborted || first !== 'stopped'
      ? `ended before it was ready (${await service.exited})`
      : `was not ready after ${readyMs / 1000} s`;
  throw new Error(`The ${name} ${how}. Its last lines:\n${service.lastOutput()}`);
}
