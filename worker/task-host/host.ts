/**
 * The worker's side of one task host. A host runs one job at a time, and may have its next one already, which it begins without
 * asking: its processor would stand still until this thread has time. It is replaced after many jobs, when it has grown,
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
import type { TokenPipe } from './token-pipe.ts';

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
  run(order: RunOrder, io: RunIo): Promise<HostEnd>;
  /**
   * Gives it the next job while it runs one that may end soon, and has no next one.
   * @returns undefined when that is not so, or it cannot have one.
   */
  offer(
    order: RunOrder,
    on: {
      /** In the moment in which the worker learns that it has begun. */
      onBegun(): void;
      /** The host does not begin it after this one. Not called for `withdraw`. */
      onTakenBack(): void;
    },
  ): Offer | undefined;
  /**
   * One of its runs is over, for whoever followed it. What it has not begun is taken back.
   * @returns false when it has another one all the same, whose end somebody follows, or will.
   */
  free(): boolean;
  /** It is not reusable any more. */
  retire(): void;
  /** Resolves when its process is gone, whoever ended it. */
  readonly exited: Promise<unknown>;
  /** Kills the host and all that it started. */
  kill(): Promise<void>;
}

export type RunOrder = Omit<RunMessage, 'type' | 'run'>;

export interface RunIo {
  /** Aborting it ends the run within 3 s, whatever the handler does. */
  readonly signal: AbortSignal;
  readonly softSignal: AbortSignal;
  onProgress(percent: number, message: string | undefined): void;
  onLog(message: string): void;
}

/** A job that a host has as its next one. */
export interface Offer {
  readonly host: TaskHost;
  /** @returns true when the host does not begin it. If not, it has begun or is about to, and `follow` has to be called. */
  withdraw(): boolean;
  /** What `run` would return. */
  follow(io: RunIo): Promise<HostEnd>;
}

type RunEnd = Extract<FromHost, { type: 'returned' | 'threw' }>;
type RunSaid = Extract<FromHost, { type: 'progress' | 'log' }> | RunEnd;

/** A run in a host. Somebody may listen only when it has begun: what it said until then is kept. */
interface HostRun {
  readonly id: string;
  readonly ended: Promise<RunEnd>;
  hear(message: RunSaid): void;
  listen(io: Pick<RunIo, 'onProgress' | 'onLog'>): void;
}

/**
 * Of a run that takes longer nobody knows when it ends: its host has no next one, which could begin in another, and gains nothing
 * either.
 */
const shortRunMsDefault = 100;
/** Of a run that nobody listens to yet; further ones are lost. */
const keptLogsMax = 100;
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
  /** Closed when the host has ended. Without one it cannot have a next job. */
  tokens?: TokenPipe | undefined;
  /** For tests. Default 100. */
  shortRunMs?: number;
  log: Logger;
}): TaskHost {
  const { dir, limits, uid, compileCache, tokens, shortRunMs = shortRunMsDefault, log } = options;
  const id = randomUUID();
  const mark = createMark(id);
  const child = spawnLimited({ dir, limits, uid, mark, compileCache, tokens });
  // Says why it could not be started, one turn later; without a listener that would end the worker.
  child.on('error', () => {});
  tokens?.closeHostFd();
  if (child.pid === undefined) {
    tokens?.close();
    throw new Error('A task host could not be started: the system is out of processes or memory.');
  }
  const pid: number = child.pid;

  const socket = child.stdio[3] as unknown as Duplex;
  let jobs = 0;
  let isSpent = false;
  let isStopping = false;
  let hasExited = false;
  let stderr = '';
  let secondStartedMs = 0;
  let messages = 0;
  let current: HostRun | undefined;
  /** Runs that have begun and are not over for everybody (`free`). */
  let open = 0;
  /** The host may not have read yet that it has a next run, which was taken back: it would take the token of another one for that. */
  let hasStale = false;
  let mayReadStale = false;
  let beganMs = 0;
  let next: { readonly run: HostRun; readonly offer: Offer; begin(): void; takeBack(): void } | undefined;

  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('error', () => resolve({ code: null, signal: null }));
    child.once('close', (code, signal) => resolve({ code, signal }));
  }).then((end) => {
    hasExited = true;
    isSpent = true;
    next?.takeBack();
    tokens?.close();
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
        else receive(message);
        slowDown();
      },
      { bytesMax: lineBytesMax, onOverflow: () => breakOff('sent a line that is too long') },
    ),
  );

  function receive(message: FromHost): void {
    if (message.type === 'ready') return;
    if (message.type === 'began') {
      if (current !== undefined || next?.run.id !== message.run)
        breakOff('began a run that it was not given');
      else next.begin();
      return;
    }
    const isEnd = message.type === 'returned' || message.type === 'threw';
    if (current?.id === message.run) {
      current.hear(message);
      if (isEnd) endRun(message);
    } else if (isEnd) {
      // Whatever else was said too late is nobody's.
      const why = current === undefined ? 'although it had none' : 'that is not the one it was given';
      breakOff(`ended a run ${why}`);
    }
  }

  function endRun(end: RunEnd): void {
    current = undefined;
    if (end.rssBytes > limits.recycleRss) isSpent = true;
    // After processes were started it does not begin the next one.
    if (isSpent || end.hasSpawned) next?.takeBack();
    if (end.hasSpawned) killStrays({ mark, uid, exceptPid: pid });
  }

  /** What it says is read on this thread, which renews the lease and does all else. */
  function slowDown(): void {
    const now = performance.now();
    if (now - secondStartedMs >= 1_000) {
      secondStartedMs = now;
      messages = 0;
    }
    messages += 1;
    // The end of what is being stopped is not waited for longer.
    if (messages !== messagesPerSecondMax || isStopping) return;
    socket.pause();
    setTimeout(() => socket.resume(), 1_000 - (now - secondStartedMs)).unref();
  }

  function breakOff(why: string): void {
    log.error({ hostPid: pid, why }, 'task host broke the protocol and is killed');
    stderr += `\nThe task host ${why}.`;
    isSpent = true;
    isStopping = true;
    killHostProcesses({ pid, mark, uid });
  }

  function send(message: ToHost): void {
    if (!hasExited) socket.write(`${JSON.stringify(message)}\n`);
  }

  function begin(run: HostRun): void {
    current = run;
    open += 1;
    beganMs = performance.now();
    jobs += 1;
    if (jobs >= limits.jobsMax) isSpent = true;
  }

  async function follow(run: HostRun, io: RunIo): Promise<HostEnd> {
    const timers: NodeJS.Timeout[] = [];
    let isOver = false;
    // Its end may have come while this thread had no time, and the next run has begun.
    const force = (afterMs: number, act: () => void) =>
      timers.push(setTimeout(() => setImmediate(() => isOver || act()), afterMs));
    const stop = () => {
      isSpent = true;
      isStopping = true;
      if (next?.run !== run) next?.takeBack();
      send({ type: 'abort', run: run.id, reason: String(io.signal.reason) });
      force(termAfterMs, () => signalGroup(pid, 'SIGTERM'));
      force(killAfterMs, () => killHostProcesses({ pid, mark, uid }));
    };
    if (io.signal.aborted) stop();
    else io.signal.addEventListener('abort', stop, { once: true });
    const warn = () => send({ type: 'soft-timeout', run: run.id });
    // It may have passed while the inputs were put in place.
    if (io.softSignal.aborted) warn();
    else io.softSignal.addEventListener('abort', warn, { once: true });
    run.listen(io);

    const end = await Promise.race([run.ended, exited.then((exit) => ({ type: 'exit' as const, ...exit }))]);
    isOver = true;
    if (next?.run === run) next = undefined;
    for (const timer of timers) clearTimeout(timer);
    io.signal.removeEventListener('abort', stop);
    io.softSignal.removeEventListener('abort', warn);
    if (end.type === 'returned') return { type: 'returned', document: end.document };
    if (io.signal.aborted) return { type: 'stopped' };
    if (end.type === 'exit') return { type: 'died', description: describeDeath(end, stderr) };
    return { type: 'threw', kind: end.kind, message: cleanText(end.message, 2_000), delayMs: end.delayMs };
  }

  const host: TaskHost = {
    id,
    pid,
    dir,
    uid,
    tenantId: undefined,
    isReusable: () => !isSpent,
    run(order, io) {
      const run = createHostRun();
      begin(run);
      stderr = '';
      mayReadStale = hasStale;
      hasStale = false;
      send({ ...order, type: 'run', run: run.id });
      return follow(run, io);
    },
    offer(order, { onBegun, onTakenBack }) {
      const run = createHostRun();
      const leftMs = shortRunMs - (performance.now() - beganMs);
      if (current === undefined || next !== undefined || isSpent || mayReadStale || leftMs <= 0)
        return undefined;
      if (tokens?.put(run.id) !== true) return undefined;
      let isWithdrawn = false;
      const offer: Offer = {
        host,
        withdraw() {
          if (next?.run !== run) return isWithdrawn;
          isWithdrawn = tokens.takeBack(run.id);
          if (isWithdrawn) {
            next = undefined;
            hasStale = true;
            clearTimeout(timer);
          }
          return isWithdrawn;
        },
        follow: (io) => follow(run, io),
      };
      const takeBack = () => {
        if (offer.withdraw()) onTakenBack();
      };
      const timer = setTimeout(takeBack, leftMs);
      next = {
        run,
        offer,
        takeBack,
        begin() {
          next = undefined;
          hasStale = false;
          mayReadStale = false;
          clearTimeout(timer);
          begin(run);
          onBegun();
        },
      };
      send({ ...order, type: 'next', run: run.id });
      return offer;
    },
    free() {
      open = Math.max(0, open - 1);
      if (open > 0) return false;
      next?.takeBack();
      return next === undefined;
    },
    exited,
    retire() {
      isSpent = true;
      next?.takeBack();
    },
    async kill() {
      isSpent = true;
      isStopping = true;
      if (!hasExited) killHostProcesses({ pid, mark, uid });
      await exited;
    },
  };
  return host;
}

function createHostRun(): HostRun {
  const { promise, resolve } = Promise.withResolvers<RunEnd>();
  let progress: Extract<FromHost, { type: 'progress' }> | undefined;
  let logs: Extract<FromHost, { type: 'log' }>[] = [];
  let io: Pick<RunIo, 'onProgress' | 'onLog'> | undefined;

  function hear(message: RunSaid): void {
    if (message.type === 'returned' || message.type === 'threw') resolve(message);
    else if (message.type === 'progress') {
      if (io === undefined) progress = message;
      else io.onProgress(message.percent, message.message);
    } else if (io !== undefined) io.onLog(message.message);
    else if (logs.length < keptLogsMax) logs.push(message);
  }

  return {
    id: randomUUID(),
    ended: promise,
    hear,
    listen(to) {
      io = to;
      for (const message of [...logs, ...(progress === undefined ? [] : [progress])]) hear(message);
      logs = [];
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
  tokens: TokenPipe | undefined;
}): ChildProcess {
  const { dir, limits, uid, mark, compileCache, tokens } = options;
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
      stdio: ['ignore', 'pipe', 'pipe', 'pipe', ...(tokens === undefined ? [] : [tokens.hostFd])],
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
