/**
 * Keeps a worker from taking jobs that the machine has no memory for: the kernel would kill a task host in the middle of
 * another job. Whoever has a slot waits here before it begins. One is let through at a time while memory is short, because what
 * a job takes shows only after a while; and always when nothing runs, so that a small machine works, one job after another.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '#shared/log.ts';

export interface MemoryGate {
  /** Resolves to true when there is memory for a job, to false when `isGivenUp` says that nobody waits for it any more. */
  enter(isGivenUp: () => boolean): Promise<boolean>;
  /** Somebody waits: nobody may begin without asking. */
  isShort(): boolean;
}

const lookEveryMs = 250;
/** Looking reads files of the kernel, and jobs may be over in less time: where there is plenty, a look is good for so long. */
const plentyMs = 100;

export function createMemoryGate(options: {
  /** Bytes that must be left; 0 lets everything through. */
  reserveBytes: number;
  availableBytes: () => number;
  /** Does anything run that will give memory back? */
  isBusy: () => boolean;
  /** Default 250. */
  lookEveryMs?: number;
  log: Logger;
}): MemoryGate {
  const { reserveBytes, availableBytes, isBusy, log } = options;
  let isShort = false;
  let plentyUntilMs = 0;
  let last: Promise<unknown> = Promise.resolve();

  async function waitForMemory(isGivenUp: () => boolean): Promise<boolean> {
    for (;;) {
      if (isGivenUp()) return false;
      if (performance.now() < plentyUntilMs) return true;
      const available = availableBytes();
      if (available >= 2 * reserveBytes) plentyUntilMs = performance.now() + plentyMs;
      if (available >= reserveBytes) break;
      if (!isShort) {
        log.warn({ available, reserve: reserveBytes }, 'memory is short: jobs wait until others have ended');
        isShort = true;
      }
      if (!isBusy()) return true;
      await sleep(options.lookEveryMs ?? lookEveryMs);
    }
    if (isShort) log.info('memory is there again');
    isShort = false;
    return true;
  }

  return {
    isShort: () => isShort,
    enter(isGivenUp) {
      if (reserveBytes === 0) return Promise.resolve(true);
      const entered = last.then(() => waitForMemory(isGivenUp));
      // What one that was let in takes has to show before the next one looks.
      last = entered.then(async (isIn) => {
        if (isIn && isShort) await sleep(options.lookEveryMs ?? lookEveryMs);
      });
      return entered;
    },
  };
}
