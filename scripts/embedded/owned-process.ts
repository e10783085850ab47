import { once } from 'node:events';
import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { guard } from './watchdog.ts';

/** A process that this one started, and that does not outlive it. */
export interface OwnedProcess {
  readonly pid: number;
  /** Resolves with "exit code 1" or "signal SIGKILL" when it has ended, for whatever reason. */
  readonly exited: Promise<string>;
  /** The last lines it wrote, for error messages. */
  lastOutput(): string;
  /** Asks it to end, and kills it after `deadlineMs` (default: that of the options). Stopping twice is fine. */
  stop(deadlineMs?: number): Promise<void>;
}

const outputLinesMax = 20;

/**
 * Takes charge of a child that was just spawned, with `stdout` and `stderr` as pipes.
 * @throws Error when it could not be executed.
 */
export async function ownProcess(
  child: ChildProcess,
  options: {
    /** For messages: "Postgres". */
    readonly name: string;
    /** The signal that asks it to end in order. */
    readonly stopSignal: 'INT' | 'TERM';
    /** Time it is given for that, in ms. */
    readonly stopMs: number;
    readonly onLine: (line: string) => void;
  },
): Promise<OwnedProcess> {
  const { name, stopSignal } = options;
  try {
    await once(child, 'spawn');
  } catch (err) {
    throw new Error(`${name} could not be started: ${err instanceof Error ? err.message : String(err)}`, {
      cause: err,
    });
  }
  // A message that can no longer be sent, for example: `exited` tells why.
  child.on('error', () => undefined);
  const { pid } = child;
  if (pid === undefined) throw new Error(`${name} was started without a process id.`);
  guard(child, { signal: stopSignal, deadlineSeconds: Math.ceil(options.stopMs / 1000) });

  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    if (stream === null) continue;
    createInterface({ input: stream }).on('line', (line) => {
      if (lines.push(line) > outputLinesMax) lines.shift();
      options.onLine(line);
    });
  }
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => {
      const how = signal === null ? `exit code ${code}` : `signal ${signal}`;
      // Its last words may still be on their way, and its own children may hold on to them for a moment.
      child.once('close', () => resolve(how));
      setTimeout(() => resolve(how), 2_000).unref();
    });
  });
  return {
    pid,
    exited,
    lastOutput: () => lines.join('\n'),
    async stop(deadlineMs = options.stopMs) {
      // kill() knows when the process has ended and sends nothing then.
      child.kill(`SIG${stopSignal}`);
      const killer = setTimeout(() => child.kill('SIGKILL'), deadlineMs);
      await exited;
      clearTimeout(killer);
    },
  };
}
