/**
 * The worker's side of one task host. A host runs one job at a time, and may have its next one already, which it begins without
 * asking: its processor would stand still until this thread has time. It is replaced after many jobs, when it has grown,
 * and whenever a run ended in any way but orderly. Ending a run by force takes at most 3 s: AbortSignal at once,
 * SIGTERM to the process group after 1 s, SIGKILL to everything it started after 2.5 s.
 */
import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { cleanText } from '#shared/domain/text.ts';
import type { Logger } from '#shared/log.ts';
import { describeDeath } from './describe-death.ts';
import { createHostRun, type HostRun, type RunEnd, type RunIo } from './host-run.ts';
import { createMark, killHostProcesses, killStrays, signalGroup } from './processes.ts';
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
import { spawnLimited } from './spawn-limited.ts';
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
      /** It has begun, or cannot be taken back any more. Called before the last run is over for anybody, and maybe again. */
      onBegun(): void;
      /** The host does not begin it after this one. Not called for `withdraw`. */
      onTakenBack(): void;
    },
  ): Offer | undefined;
  /**
   * To be called once for each run that was followed to its end. What the host has not begun is taken back.
   * @returns false when it has another run all the same, which somebody else follows, or will.
   */
  leave(): boolean;
  /** It is not reusable any more. */
  retire(): void;
  /** Resolves when its process is gone, whoever ended it. */
  readonly exited: Promise<unknown>;
  /** Kills the host and all that it started. */
  kill(): Promise<void>;
}

export type RunOrder = Omit<RunMessage, 'type' | 'run'>;

/** A job that a host has as its next one. */
export interface Offer {
  readonly host: TaskHost;
  /**
   * @returns true when the host does not begin it. If not, it has begun or is about to, or has died and nobody can know: `follow` has to be
   * called.
   */
  withdraw(): boolean;
  /** What `run` would return. */
  follow(io: RunIo): Promise<HostEnd>;
}

/** The host of a run that takes longer has no next one: that would gain nothing, and could begin in another host meanwhile. */
const shortRunMsDefault = 100;
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
  /** What was written to stderr by the time that the last run had ended, in characters. */
  let wordsOfOthers = 0;
  let secondStartedMs = 0;
  let messages = 0;
  let current: HostRun | undefined;
  /** Runs that have begun and were not left. */
  let open = 0;
  /** A next run was taken back, and the host may read of it only later: then it would read the token of another one. */
  let hasStale = false;
  /** The same, of a time before the current run: there is no other one until it is over. */
  let mayReadStale = false;
  let beganMs = 0;
  let next:
    | { readonly run: HostRun; readonly offer: Offer; begin(): void; takeBack(): void; onBegun(): void }
    | undefined;

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
    const all = stderr + chunk.toString('utf8');
    stderr = all.slice(-stderrBytesMax);
    wordsOfOthers = Math.max(0, wordsOfOthers - (all.length - stderr.length));
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
    // What it said may be read after that it has ended.
    setImmediate(() => (wordsOfOthers = stderr.length));
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
    if (end.type === 'exit') {
      // What it said may have come before the end of the run before it.
      const words = stderr.slice(wordsOfOthers).trim() === '' ? stderr : stderr.slice(wordsOfOthers);
      return { type: 'died', description: describeDeath(end, words) };
    }
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
      wordsOfOthers = 0;
      mayReadStale = hasStale;
      hasStale = false;
      send({ ...order, type: 'run', run: run.id });
      return follow(run, io);
    },
    offer(order, { onBegun, onTakenBack }) {
      const run = createHostRun();
      const leftMs = shortRunMs - (performance.now() - beganMs);
      if (current === undefined || next !== undefined || isSpent || mayReadStale || leftMs < 1)
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
      const timer = setTimeout(takeBack, Math.ceil(leftMs));
      next = {
        run,
        offer,
        takeBack,
        onBegun,
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
    leave() {
      open = Math.max(0, open - 1);
      if (open > 0) return false;
      next?.takeBack();
      // Before somebody else has the slot of the run that is over.
      next?.onBegun();
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

function parseMessage(line: string): FromHost | undefined {
  try {
    return fromHost.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}
