import { spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  identifyProcess,
  isRunning,
  processIdentitySchema,
  type ProcessIdentity,
} from '#scripts/process-identity.ts';
import { ownProcess, type OwnedProcess } from './owned-process.ts';

export interface ServerCommand {
  /** For messages: "Postgres". */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly user: { readonly uid: number; readonly gid: number } | undefined;
  /** Written to its standard input. */
  readonly input?: string;
  /** Standard input stays open after `input` instead of being closed. */
  readonly isInputHeld?: boolean;
  /** The signal that asks it to end in order. */
  readonly stopSignal: 'INT' | 'TERM';
  /** Where its identity is remembered, so that the next start finds it if it was left behind. */
  readonly pidFile: string;
  readonly log: (line: string) => void;
  readonly env?: Readonly<Record<string, string>>;
}

const stopMs = 20_000;

/**
 * Starts a server in a session of its own: Ctrl-C in a terminal goes to every process of the session, and the servers
 * have to outlive the processes that use them.
 * @throws Error when it cannot be executed.
 */
export async function spawnServer(options: ServerCommand): Promise<OwnedProcess> {
  const { name, stopSignal, pidFile } = options;
  await stopLeftover(options);
  const child = spawn(options.command, options.args, {
    cwd: options.cwd,
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC', ...options.env },
    ...options.user,
  });
  child.stdin.on('error', () => undefined); // EPIPE: it ended without reading; `exited` tells.
  child.once('exit', () => rmSync(pidFile, { force: true }));
  const server = await ownProcess(child, { name, stopSignal, stopMs, onLine: options.log });
  const identity = identifyProcess(server.pid);
  if (identity !== undefined) writeFileSync(pidFile, JSON.stringify(identity), { mode: 0o600 });
  if (options.input !== undefined) child.stdin.write(options.input);
  if (options.isInputHeld !== true) child.stdin.end();
  return server;
}

/**
 * Polls `attempt` until it returns true.
 * @throws Error with the server's last output when it ends first, or when `deadlineMs` (default 60 s) have passed.
 */
export async function waitUntilReady(
  server: OwnedProcess,
  options: { name: string; attempt: () => Promise<boolean>; deadlineMs?: number },
): Promise<void> {
  const deadline = performance.now() + (options.deadlineMs ?? 60_000);
  let end: string | undefined;
  void server.exited.then((how) => (end = how));
  while (!(await options.attempt())) {
    if (end !== undefined) {
      throw new Error(`${options.name} ended while it was starting (${end}):\n${server.lastOutput()}`);
    }
    if (performance.now() > deadline) {
      await server.stop(1_000);
      throw new Error(`${options.name} did not answer in time:\n${server.lastOutput()}`);
    }
    await sleep(20);
  }
}

/** Two servers on one directory destroy it; a killed parent may have left one that is only now being stopped. */
async function stopLeftover(options: ServerCommand): Promise<void> {
  const leftover = readIdentity(options.pidFile);
  if (leftover === undefined) return;
  const deadline = performance.now() + stopMs;
  let signal: NodeJS.Signals | undefined = `SIG${options.stopSignal}`;
  while (isRunning(leftover)) {
    if (signal !== undefined) sendSignal(leftover.pid, signal);
    signal = performance.now() > deadline ? 'SIGKILL' : undefined;
    await sleep(20);
  }
  rmSync(options.pidFile, { force: true });
}

/** It may end between the look and the signal. */
function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (err) {
    if (!(err instanceof Error && 'code' in err && err.code === 'ESRCH')) throw err;
  }
}

/** The process that a pid file names; undefined when there is no such file, or it was cut short by a crash. */
export function readIdentity(pidFile: string): ProcessIdentity | undefined {
  try {
    return processIdentitySchema.parse(JSON.parse(readFileSync(pidFile, 'utf8')));
  } catch {
    return undefined;
  }
}
