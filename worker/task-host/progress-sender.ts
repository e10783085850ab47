/**
 * Progress of one run on its way to the worker: the first report at once, then the newest one every now and then. The worker
 * writes it down twice a second, and each message wakes it up; a handler may report ten thousand times a second.
 */
export interface ProgressSender {
  report(percent: number, text: string | undefined): void;
  /** The run has ended: what still waits is sent, or not, and what is reported later is nobody's any more. */
  close(options: { isSent: boolean }): void;
}

const sendEveryMs = 100;

export function createProgressSender(
  send: (percent: number, text: string | undefined) => void,
): ProgressSender {
  let sentMs = Number.NEGATIVE_INFINITY;
  let waiting: { percent: number; text: string | undefined } | undefined;
  let timer: NodeJS.Timeout | undefined;
  let isClosed = false;

  function flush(): void {
    clearTimeout(timer);
    timer = undefined;
    if (waiting === undefined) return;
    const { percent, text } = waiting;
    waiting = undefined;
    sentMs = performance.now();
    send(percent, text);
  }

  return {
    report(percent, text) {
      if (isClosed) return;
      waiting = { percent, text };
      // A handler that keeps the thread to itself gives no timer its turn.
      if (performance.now() - sentMs >= sendEveryMs) flush();
      else timer ??= setTimeout(flush, sendEveryMs);
    },
    close({ isSent }) {
      isClosed = true;
      if (!isSent) waiting = undefined;
      flush();
    },
  };
}
