import { spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createInterface } from 'node:readline';
import {
  identifyProcess,
  isRunning,
  processIdentitySchema,
  type ProcessIdentity,
} from '#scripts/process-identity.ts';
import { guard } from './watchdog.ts';

/** A server that this process started and that does not outlive it. */
export interface ServerProcess {
  readonly pid: number;
  /** Resolves with "exit code 1" or "signal SIGKILL" when the process has ended, for whatever reason. */
  readonly exited: Promise<string>;
  /** The last lines it wrote, for error messages. */
  lastOutput(): string;
  /** Asks it to end, and kills it after `deadlineMs` (default 20 s). Stopping twice is fine. */
  stop(deadlineMs?: number): Promise<void>;
}

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

const outputLinesMax = 20;

/**
 * Starts a server in a session of its own: Ctrl-C in a terminal goes to every process of the session, and the servers
 * have to outlive the processes that use them.
 * @throws Error when it cannot be executed.
 */
export async function spawnServer(options: ServerCommand): Promise<ServerProcess> {
  await stopLeftover(options);
  const child = spawn(options.command, options.args, {
    cwd: options.cwd,
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC', ...options.env },
    ...options.user,
  });
  let hasEnded = false;
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => {
      hasEnded = true;
      rmSync(options.pidFile, { force: true });
      const how = signal === null ? `exit code ${code}` : `signal ${signal}`;
      // Its last words may still be on their way, and its own children may hold on to them for a moment.
      child.once('close', () => resolve(how));
      setTimeout(() => resolve(how), 2_000).unref();
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (err) =>
      reject(new Error(`${options.name} could not be started: ${err.message}`, { cause: err })),
    );
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`${options.name} was started without a process id.`);
  guard(child, { signal: options.stopSignal, deadlineSeconds: 10 });
  const identity = identifyProcess(pid);
  if (identity !== undefined) writeFileSync(options.pidFile, JSON.stringify(identity), { mode: 0o600 });

  child.stdin.on('error', () => undefined); // EPIPE: it ended without reading; `exited` tells.
  if (options.input !== undefined) child.stdin.write(options.input);
  if (options.isInputHeld !== true) child.stdin.end();
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      if (lines.push(line) > outputLinesMax) lines.shift();
      options.log(line);
    });
  }

  return {
    pid,
    exited,
    lastOutput: () => lines.join('\n'),
    async stop(deadlineMs = 20_000) {
      if (!hasEnded) child.kill(`SIG${options.stopSignal}`);
      const killer = setTimeout(() => child.kill('SIGKILL'), deadlineMs);
      await exited;
      clearTimeout(killer);
    },
  };
}

/**
 * Polls `attempt` until it returns true.
 * @throws Error with the server's last output when it ends first, or when `deadlineMs` (default 60 s) have passed.
 */
export async function waitUntilReady(
  server: ServerProcess,
  options: { name: string; attempt: () => Promise<boolean>; deadlineMs?: number },
): Promise<void> {
  const deadline = performance.now() + (options.deadlineMs ?? 60_000);
  let end: string | undefined;
  void server.exited.then((how) => (end = how));
  while (!(await options.attempt())) {
    if (end !== undefined)
      throw new Error(`${options.name} ended while it was starting (${end}):\n${server.lastOutput()}`);
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
  const deadline = performance.now() + 20_000;
  if (isRunning(leftover)) process.kill(leftover.pid, `SIG${options.stopSignal}`);
  while (isRunning(leftover)) {
    if (performance.now() > deadline) process.kill(leftover.pid, 'SIGKILL');
    await sleep(20);
  }
  rmSync(options.pidFile, { force: true });
}

/** The process that a pid file names; undefined when there is no such file, or it was cut short by a crash. */
export function readIdentity(pidFile: string): ProcessIdentity | undefined {
  try {
    return processIdentitySchema.parse(JSON.parse(readFileSync(pidFile, 'utf8')));
  } catch {
    return undefined;
  }
}
