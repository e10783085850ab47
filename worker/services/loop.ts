/**
 * The one shape of background loops: `runOnce` does a round and says when the next one is due; `wake` brings it
 * forward; `stop` waits for the round in progress. Start and stop may be called in any order and twice.
 */
import type { Logger } from '#shared/log.ts';

export interface Loop {
  start(): void;
  /** Runs the next round now, or right after the one in progress. */
  wake(): void;
  stop(): Promise<void>;
}

export function createLoop(options: {
  name: string;
  /** @returns ms until the next round. */
  runOnce: () => Promise<number>;
  /** After a round that threw, in ms. Default 1,000. */
  retryMs?: number;
  log: Logger;
}): Loop {
  const { name, runOnce, retryMs = 1_000, log } = options;
  let isRunning = false;
  let isWoken = false;
  let failures = 0;
  let timer: NodeJS.Timeout | undefined;
  let round: Promise<void> = Promise.resolve();
  let isBusy = false;

  async function runRound(): Promise<void> {
    isBusy = true;
    isWoken = false;
    let delayMs: number;
    try {
      delayMs = await runOnce();
      if (failures > 0) log.info({ loop: name, failures }, 'loop works again');
      failures = 0;
    } catch (err) {
      failures += 1;
      // The first failure is news; the hundredth of an outage is not.
      if (failures === 1) log.warn({ loop: name, err }, 'loop failed');
      delayMs = retryMs;
    }
    isBusy = false;
    if (isRunning) schedule(isWoken ? 0 : delayMs);
  }

  function schedule(delayMs: number): void {
    clearTimeout(timer);
    timer = setTimeout(() => {
      round = runRound();
    }, delayMs);
  }

  return {
    start() {
      if (isRunning) return;
      isRunning = true;
      schedule(0);
    },
    wake() {
      isWoken = true;
      if (isRunning && !isBusy) schedule(0);
    },
    async stop() {
      isRunning = false;
      clearTimeout(timer);
      await round;
    },
  };
}
