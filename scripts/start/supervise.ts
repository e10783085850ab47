import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '#shared/log.ts';

/** A process that runs. */
export interface Launched {
  /** Resolves with how it ended, whoever ended it. */
  readonly exited: Promise<string>;
  /** Ends it in order; resolves when it is gone. */
  stop(): Promise<void>;
}

export interface Supervised<Process extends Launched> {
  /** The first launch. Rejects when that fails: what does not even start is not tried again. */
  readonly ready: Promise<Process>;
  /** Ends the process that runs, or is being launched, and launches no other. */
  stop(): Promise<void>;
}

/** More deaths than this within a minute are no accident. */
const restartsMax = 5;
const windowMs = 60_000;

/**
 * Launches a process, and launches it again whenever it ends without having been asked to. `onGiveUp` is told when
 * that happens too often. The signal that `launch` is given ends a launch that is no longer wanted.
 */
export function supervise<Process extends Launched>(options: {
  readonly name: string;
  readonly launch: (signal: AbortSignal) => Promise<Process>;
  readonly onGiveUp: (err: Error) => void;
  readonly log: Logger;
}): Supervised<Process> {
  const { name, launch, onGiveUp, log } = options;
  const stopping = new AbortController();
  const deaths: number[] = [];
  const ready = launch(stopping.signal);
  let current = ready;

  const relaunchOnDeath = async (): Promise<void> => {
    await ready;
    for (;;) {
      // A launch that fails is a death, too.
      const how = await current.then((launched) => launched.exited, messageOf);
      if (stopping.signal.aborted) return;
      const now = performance.now();
      deaths.push(now);
      while ((deaths[0] ?? now) < now - windowMs) deaths.shift();
      log.error({ process: name, how, deaths: deaths.length }, 'a process ended unexpectedly');
      if (deaths.length > restartsMax) {
        onGiveUp(new Error(`The ${name} ended ${deaths.length} times within a minute, last with: ${how}`));
        return;
      }
      // At once the first time; one that keeps dying should not take the machine with it.
      await sleep((deaths.length - 1) * 200);
      if (stopping.signal.aborted) return;
      current = launch(stopping.signal);
    }
  };
  relaunchOnDeath().catch(() => undefined); // It only rejects with `ready`, which the caller has.

  return {
    ready,
    async stop() {
      stopping.abort();
      const launched = await current.catch(() => undefined);
      await launched?.stop();
    },
  };
}

function messageOf(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}
