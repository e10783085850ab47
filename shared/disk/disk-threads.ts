/**
 * Threads for the small disk operations that come many at a time: the files of one run cost some seventy, and each that goes
 * through Node's own thread pool wakes two threads and a turn of the event loop (306 futex calls and 83 turns for a thumbnail).
 * A function here does all that belongs together with synchronous calls, and is one message there and one back.
 */
import { Tinypool } from 'tinypool';
import type { ThreadAnswer, ThreadCall } from './thread.ts';

/** Functions that a module exports for threads: they block, and take and give one plain value. */
type ThreadFunctions = Record<string, (task: never) => unknown>;

type Call<Functions extends ThreadFunctions> = <Name extends keyof Functions & string>(
  name: Name,
  task: Parameters<Functions[Name]>[0],
) => Promise<ReturnType<Functions[Name]>>;

export interface DiskThreads {
  /** @param url of the module whose functions are called. @returns what calls them; it fails with the function's error and its `code`. */
  load<Functions extends ThreadFunctions>(url: URL): Call<Functions>;
  /** Ends the threads; calls that are under way fail. */
  close(): Promise<void>;
}

/** As many as Node's own pool has. One that deletes a large tree must not hold up all others. */
const threadsMax = 4;

/** Starting one costs far more than keeping it. */
const idleMs = 600_000;

/** Threads start when there is something to do. @param crashAt the setting of shared/crash-point.ts. */
export function createDiskThreads({ crashAt }: { crashAt?: string | undefined } = {}): DiskThreads {
  let pool: Tinypool | undefined;
  const start = () =>
    new Tinypool({
      minThreads: 0,
      maxThreads: threadsMax,
      idleTimeout: idleMs,
      // What one thread opens, another one reads and closes.
      trackUnmanagedFds: false,
      filename: new URL('./thread.ts', import.meta.url).href,
    });
  return {
    load: (url) => async (name, task) => {
      pool ??= start();
      const call: ThreadCall = { url: url.href, name, task, crashAt };
      const answer = (await pool.run(call)) as ThreadAnswer;
      if (answer.isDone) return answer.value as never;
      throw Object.assign(new Error(answer.message), answer.code !== undefined && { code: answer.code });
    },
    async close() {
      await pool?.destroy();
    },
  };
}
