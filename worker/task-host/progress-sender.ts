/**
 * Progress of one run on its way to the worker: the first report at once, then the newest one every now and then. The worker
 * writes it down twice a second, and each message wakes it up; a handler may report ten thousand times a second.
 */
export interface ProgressSender {
  report(percent: number, text: string | undefined): void;
  /** Sends what is waiting, which is the last that was reported. */
  flush(): void;
  /** Forgets what is waiting. */
  drop(): void;
}

const sendEveryMs = 100;

export function createProgressSender(
  send: (percent: number, text: string | undefined) => void,
): ProgressSender {
  let sentMs = Number.NEGATIVE_INFINITY;
  let waiting: { percent: number; text: string | undefined } | undefined;
  let timer: NodeJS.Timeout | undefined;

  function flush(): void {
    const newest = waiting;
    drop();
    if (newest === undefined) return;
    sentMs = performance.now();
    send(newest.percent, newest.text);
  }

  function drop(): void {
    clearTimeout(timer);
    timer = undefined;
    waiting = undefined;
  }

  return {
    report(percent, text) {
      waiting = { percent, text };
      // A handler that keeps the thread to itself gives no timer its turn.
      if (performance.now() - sentMs >= sendEveryMs) flush();
      else timer ??= setTimeout(flush, sendEveryMs);
    },
    flush,
    drop,
  };
}
