/**
 * How a process of ours ends. `main.ts` registers a stop step after each thing it starts; on the way down they run
 * in reverse order, so that nothing loses what it needs before it has stopped itself.
 *
 * It begins to stop on SIGTERM, SIGINT or SIGHUP, when the process that started it with an IPC channel is gone
 * (killed with -9, it could not have told us), on `stop()`, and on an error that nobody caught.
 *
 * Exit codes
 *   0          asked to stop, and every step ended in time
 *   1          an uncaught error or a failure, or a step that failed or took too long
 *   signal     a second one arrived while stopping: it ends the process at once, steps are left undone
 */
import type { Logger } from './log.ts';

export interface Lifecycle {
  /**
   * Registers what has to be done before the process may end. `deadline` is aborted when the time for stopping
   * is used up: what has not finished by then must be cut off. Named for the log.
   */
  onStop(name: string, stop: (deadline: AbortSignal) => Promise<void> | void): void;
  /** Aborted as soon as stopping begins. */
  readonly stopping: AbortSignal;
  /** Ends the process in order, with exit code 0. Calling it again changes nothing. */
  stop(reason: string): void;
  /** Logs `err` as fatal and ends the process in order, with exit code 1. */
  fail(err: unknown, message: string): void;
}

export interface LifecycleOptions {
  readonly log: Logger;
  /** Time for all stop steps together, in ms. */
  readonly deadlineMs: number;
}

/** How long a step may go on after the deadline was reached, before it is left behind. */
const afterDeadlineMs = 1_000;

/** One Ctrl-C may arrive several times: from the terminal, and passed on by npm. */
const echoMs = 300;

/** SIGHUP: the terminal was closed. Node dies of it unless it is handled, `nohup` or not. */
const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/** Takes over signals, the parent's IPC channel and uncaught errors. Call it once, first thing in `main.ts`. */
export function createLifecycle({ log, deadlineMs }: LifecycleOptions): Lifecycle {
  const steps: { name: string; stop: (deadline: AbortSignal) => Promise<void> | void }[] = [];
  const stopping = new AbortController();
  let exitCode = 0;

  const begin = (reason: string): void => {
    if (stopping.signal.aborted) return;
    log.info({ reason, deadlineMs }, 'stopping');
    stopping.abort(new Error(`The process is stopping: ${reason}.`));
    void end();
  };

  const end = async (): Promise<void> => {
    const startedAt = performance.now();
    const deadline = new AbortController();
    setTimeout(() => deadline.abort(new Error(`Not stopped within ${deadlineMs} ms.`)), deadlineMs);
    // A step may be registered while stopping, by a start that was still under way: it is taken up, too.
    for (let step = steps.pop(); step !== undefined; step = steps.pop()) {
      try {
        await withinDeadline(Promise.resolve(step.stop(deadline.signal)), deadline.signal);
      } catch (err) {
        exitCode = 1;
        log.error({ err, step: step.name }, 'a stop step did not end well');
      }
    }
    log.info({ durationMs: Math.round(performance.now() - startedAt), exitCode }, 'stopped');
    await flush(log);
    process.exit(exitCode);
  };

  const fail = (err: unknown, message: string): void => {
    exitCode = 1;
    log.fatal({ err }, message);
    begin(message);
  };

  let firstSignalAt: number | undefined;
  for (const signal of signals) {
    process.on(signal, () => {
      if (firstSignalAt === undefined) {
        firstSignalAt = performance.now();
        begin(signal);
      } else if (performance.now() - firstSignalAt > echoMs) {
        // As if it had never been handled: exit() would still run code, and wait for the log to be written.
        process.removeAllListeners(signal);
        process.kill(process.pid, signal);
      }
    });
  }
  if (process.connected) process.once('disconnect', () => begin('the process that started this one is gone'));
  process.on('uncaughtException', (err) => fail(err, 'uncaught exception'));
  process.on('unhandledRejection', (err) => fail(err, 'unhandled rejection'));

  return {
    onStop: (name, stop) => void steps.push({ name, stop }),
    stopping: stopping.signal,
    stop: begin,
    fail,
  };
}

/**
 * Waits until the log is written, or cannot be. Left to the end of the process, writing to a pipe that nobody reads
 * any more would be tried for ever (sonic-boom 4.2).
 */
async function flush(log: Logger): Promise<void> {
  const written = Promise.withResolvers<void>();
  log.flush(() => written.resolve());
  const timer = setTimeout(() => written.resolve(), afterDeadlineMs);
  await written.promise;
  clearTimeout(timer);
}

/** Waits for `step`, but no longer than `afterDeadlineMs` after the deadline. */
async function withinDeadline(step: Promise<void>, deadline: AbortSignal): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const leftBehind = Promise.withResolvers<never>();
  const leave = () => {
    timer = setTimeout(() => leftBehind.reject(deadline.reason), afterDeadlineMs);
  };
  if (deadline.aborted) leave();
  else deadline.addEventListener('abort', leave);
  try {
    await Promise.race([step, leftBehind.promise]);
  } finally {
    deadline.removeEventListener('abort', leave);
    clearTimeout(timer);
  }
}
