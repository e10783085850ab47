/**
 * Progress of one run on its way to the worker: the first two reports at once (what a handler says before it keeps the thread to
 * itself, when no timer has its turn), then the newest one ten times a second. The worker writes it down twice a second, and each message
 * wakes it up; a handler may report ten thousand times a second.
 */
export interface ProgressSender {
  report(percent: number, text: string | undefined): void;
  /** The run has ended: what still waits is sent, and what is reported later is nobody's any more. */
  close(): void;
}

const sendEveryMs = 100;
const atOnceMax = 2;

export function createProgressSender(
  send: (percent: number, text: string | undefined) => void,
): ProgressSender {
  let atOnce = atOnceMax;
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
    atOnce = allowedNow() - 1;
    sentMs = performance.now();
    send(percent, text);
  }

  function allowedNow(): number {
    return Math.min(atOnceMax, atOnce + (performance.now() - sentMs) / sendEveryMs);
  }

  return {
    report(percent, text) {
      if (isClosed) return;
      waiting = { percent, text };
      if (allowedNow() >= 1) flush();
      else timer ??= setTimeout(flush, sendEveryMs);
    },
    close() {
      isClosed = true;
      flush();
    },
  };
}
