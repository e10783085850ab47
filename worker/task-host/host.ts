/**
 * The worker's side of one task host. A host runs one job at a time; it is replaced after many jobs, when it has grown,
 * and whenever a run ended in any way but orderly. Ending a run by force takes at most 3 s: AbortSignal at once,
 * SIGTERM to the process group after 1 s, SIGKILL to everything it started after 2.5 s.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { cleanText } from '#shared/domain/text.ts';
import type { Logger } from '#shared/log.ts';
import { createMark, killHostProcesses, killStrays, markVariable, signalGroup } from './processes.ts';
import {
  createLineSplitter,
  fromHost,
  lineBytesMax,
  type FromHost,
  type ResultDocument,
  type RunMessage,
  type ThrownKind,
  type ToHost,
} from './protocol.ts';
import { homeOf } from './scratch.ts';

export interface HostLimits {
  /** RLIMIT_DATA in bytes. */
  readonly memoryMax: number;
  /** RLIMIT_FSIZE in bytes. */
  readonly fileBytesMax: number;
  /** A host is replaced after this many jobs, */
  readonly jobsMax: number;
  /** or when it is larger than this after a job, in bytes. */
  readonly recycleRss: number;
}

/** How a run in a host ended. `died` carries what the operator needs to understand a crash. */
export type HostEnd =
  /** `document`: unless it is in a file (protocol.ts). */
  | { readonly type: 'returned'; readonly document?: ResultDocument | undefined }
  | {
      readonly type: 'threw';
      readonly kind: ThrownKind;
      readonly message: string;
      readonly delayMs: number | undefined;
    }
  | { readonly type: 'died'; readonly description: string }
  /** It was aborted from here, and has stopped (by itself or by force). */
  | { readonly type: 'stopped' };

export interface TaskHost {
  readonly id: string;
  readonly pid: number;
  /** Its own directory, with its home in it. */
  readonly dir: string;
  readonly uid: number | undefined;
  /** Set by the first run: a host serves one tenant. */
  tenantId: string | undefined;
  readonly isReusable: () => boolean;
  /** @param signal aborting it ends the run within 3 s, whatever the handler does. */
  run(
    order: Omit<RunMessage, 'run'>,
    io: {
      signal: AbortSignal;
      softSignal: AbortSignal;
      onProgress(percent: number, message: string | undefined): void;
      onLog(message: string): void;
    },
  ): Promise<HostEnd>;
  /** It is not reusable any more. */
  retire(): void;
  /** Resolves when its process is gone, whoever ended it. */
  readonly exited: Promise<unknown>;
  /** Kills the host and all that it started. */
  kill(): Promise<void>;
}

const termAfterMs = 1_000;
const killAfterMs = 2_500;
/** Of a host; further ones have to wait. A handler that logs in a loop may say this much. */
const messagesPerSecondMax = 5_000;
/** The stack of native code that Node prints as it aborts takes several KiB, and comes after the reason. */
const stderrBytesMax = 16_384;

export function spawnHost(options: {
  dir: string;
  limits: HostLimits;
  /** The user id to run as, with a group of the same number; undefined to stay the worker's own user. */
  uid: number | undefined;
  compileCache: string | undefined;
  log: Logger;
}): TaskHost {
  const { dir, limits, uid, compileCache, log } = options;
  const id = randomUUID();
  const mark = createMark(id);
  const child = spawnLimited({ dir, limits, uid, mark, compileCache });
  // Says why it could not be started, one turn later; without a listener that would end the worker.
  child.on('error', () => {});
  const pid = child.pid;
  if (pid === undefined)
    throw new Error('A task host could not be started: the system is out of processes or memory.');

  const socket = child.stdio[3] as unknown as Duplex;
  let jobs = 0;
  let isSpent = false;
  let hasExited = false;
  let stderr = '';
  let secondStartedMs = 0;
  let messages = 0;
  let onMessage: ((message: FromHost) => void) | undefined;

  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('error', () => resolve({ code: null, signal: null }));
    child.once('close', (code, signal) => resolve({ code, signal }));
  }).then((end) => {
    hasExited = true;
    isSpent = true;
    killStrays({ mark, uid, exceptPid: pid });
    return end;
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString('utf8')).slice(-stderrBytesMax);
  });
  // What a handler prints is for its author's eyes while developing, and nobody's protocol.
  child.stdout?.on('data', (chunk: Buffer) =>
    log.debug({ hostPid: pid, text: cleanText(chunk.toString('utf8'), 1_000) }, 'task host printed'),
  );
  socket.on('error', () => {});
  socket.on(
    'data',
    createLineSplitter(
      (line) => {
        const message = parseMessage(line);
        if (message === undefined) breakOff('sent a message that is not part of the protocol');
        else if (onMessage !== undefined) onMessage(message);
        // What was reported too late is nobody's.
        else if (message.type === 'returned' || message.type === 'threw')
          breakOff('ended a run although it had none');
        slowDown();
      },
      { bytesMax: lineBytesMax, onOverflow: () => breakOff('sent a line that is too long') },
    ),
  );

  /** What it says is read on this thread, which renews the lease and does all else. */
  function slowDown(): void {
    const now = performance.now();
    if (now - secondStartedMs >= 1_000) {
      secondStartedMs = now;
      messages = 0;
    }
    messages += 1;
    if (messages !== messagesPerSecondMax || isSpent) return;
    socket.pause();
    setTimeout(() => socket.resume(), 1_000 - (now - secondStartedMs)).unref();
  }

  function breakOff(why: string): void {
    log.error({ hostPid: pid, why }, 'task host broke the protocol and is killed');
    stderr += `\nThe task host ${why}.`;
    isSpent = true;
    killHostProcesses({ pid: pid as number, mark, uid });
  }

  function send(message: ToHost): void {
    if (!hasExited) socket.write(`${JSON.stringify(message)}\n`);
  }

  return {
    id,
    pid,
    dir,
    uid,
    tenantId: undefined,
    isReusable: () => !isSpent,
    async run(order, io) {
      const message: RunMessage = { ...order, run: randomUUID() };
      jobs += 1;
      if (jobs >= limits.jobsMax) isSpent = true;
      stderr = '';
      const ended = new Promise<Extract<FromHost, { type: 'returned' | 'threw' }>>((resolve) => {
        onMessage = (event) => {
          if (event.type === 'ready') return;
          const isOurs = event.run === message.run;
          if (event.type === 'progress') {
            if (isOurs) io.onProgress(event.percent, event.message);
          } else if (event.type === 'log') {
            if (isOurs) io.onLog(event.message);
          } else if (isOurs) resolve(event);
          else breakOff('ended a run that is not the one it was given');
        };
      });
      const timers: NodeJS.Timeout[] = [];
      const stop = () => {
        isSpent = true;
        send({ type: 'abort', reason: String(io.signal.reason) });
        timers.push(setTimeout(() => signalGroup(pid, 'SIGTERM'), termAfterMs));
        timers.push(setTimeout(() => killHostProcesses({ pid, mark, uid }), killAfterMs));
      };
      if (io.signal.aborted) stop();
      else io.signal.addEventListener('abort', stop, { once: true });
      const warn = () => send({ type: 'soft-timeout' });
      io.softSignal.addEventListener('abort', warn, { once: true });
      send(message);
      // It may have passed while the inputs were put in place.
      if (io.softSignal.aborted) warn();

      const end = await Promise.race([ended, exited.then((exit) => ({ type: 'exit' as const, ...exit }))]);
      for (const timer of timers) clearTimeout(timer);
      io.signal.removeEventListener('abort', stop);
      io.softSignal.removeEventListener('abort', warn);
      onMessage = undefined;
      if (end.type !== 'exit') {
        if (end.rssBytes > limits.recycleRss) isSpent = true;
        if (end.hasSpawned) killStrays({ mark, uid, exceptPid: pid });
        if (end.type === 'returned') return { type: 'returned', document: end.document };
        if (io.signal.aborted) return { type: 'stopped' };
        return {
          type: 'threw',
          kind: end.kind,
          message: cleanText(end.message, 2_000),
          delayMs: end.delayMs,
        };
      }
      if (io.signal.aborted) return { type: 'stopped' };
      return { type: 'died', description: describeDeath(end, stderr) };
    },
    exited,
    retire() {
      isSpent = true;
    },
    async kill() {
      isSpent = true;
      if (!hasExited) killHostProcesses({ pid, mark, uid });
      await exited;
    },
  };
}

function parseMessage(line: string): FromHost | undefined {
  try {
    return fromHost.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}

/** Node's own stack says nothing to the author of a task, and is long enough to hide what does. */
const nativeFrame = /^\s*\d+: 0x[0-9a-f]+ |^-{5} Native stack trace -{5}$/;

function describeDeath(end: { code: number | null; signal: NodeJS.Signals | null }, stderr: string): string {
  const how =
    end.signal === null ? `exited with code ${end.code ?? 'unknown'}` : `was killed by ${end.signal}`;
  const lines = stderr
    .trim()
    .split('\n')
    .filter((line) => line.trim() !== '' && !nativeFrame.test(line))
    .slice(-5)
    .join('\n');
  return cleanText(
    `The process that ran the task ${how}.${lines === '' ? '' : ` Its last words:\n${lines}`}`,
    2_000,
  );
}

/**
 * The limits are set by a shell before Node starts (Node has no setrlimit). RLIMIT_DATA, not RLIMIT_AS: V8 and
 * WebAssembly reserve tens of gigabytes of address space that they never touch. Core dumps are off, because they
 * would hold a client's data. `setpriv --pdeathsig` makes the kernel kill the host when its worker dies,
 * also while a handler blocks the event loop.
 */
const limitScript = `
ulimit -c 0
ulimit -d "$1" 2>/dev/null
ulimit -f "$2" 2>/dev/null
ulimit -n 1024 2>/dev/null
echo 1000 2>/dev/null > /proc/self/oom_score_adj
shift 2
if command -v setpriv >/dev/null 2>&1 && setpriv --pdeathsig KILL true 2>/dev/null; then exec setpriv --pdeathsig KILL "$@"; fi
exec "$@"`;

/**
 * What V8 reserves for code when it starts: it counts as data although hardly any of it is ever touched, so it comes on
 * top of what a task may have. Measured: a Node 24 that does nothing has 562 MiB of data and 42 MiB in memory.
 */
const reservedBytes = 576 * 1024 * 1024;

const mainFile = new URL('./main.ts', import.meta.url).pathname;

function spawnLimited(options: {
  dir: string;
  limits: HostLimits;
  uid: number | undefined;
  mark: string;
  compileCache: string | undefined;
}): ChildProcess {
  const { dir, limits, uid, mark, compileCache } = options;
  const home = homeOf(dir);
  const heapMiB = Math.floor(limits.memoryMax / 2 / 1024 / 1024);
  return spawn(
    '/bin/sh',
    [
      '-c',
      limitScript,
      'task-host',
      String(Math.floor((limits.memoryMax + reservedBytes) / 1024)),
      String(Math.floor(limits.fileBytesMax / 512)),
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      `--max-old-space-size=${heapMiB}`,
      mainFile,
    ],
    {
      cwd: home,
      // A group of its own, so that it can be killed with its children.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      // Nothing of the worker's environment: it holds the passwords of Postgres, Redis and the mail server.
      env: {
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        HOME: home,
        TMPDIR: home,
        LANG: 'C.UTF-8',
        TZ: 'UTC',
        // libvips refuses its loaders that were never fuzzed.
        VIPS_BLOCK_UNTRUSTED: '1',
        [markVariable]: mark,
        ...(compileCache !== undefined && { NODE_COMPILE_CACHE: compileCache }),
      },
      ...(uid !== undefined && { uid, gid: uid }),
    },
  );
}
