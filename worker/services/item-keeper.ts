/**
 * Lets steps go on whose items have ended, and ends the items of steps that have ended (shared/db/each-runs.ts decides): at once when
 * this worker has ended an item, and when a page of all steps that wait comes to it, whatever ended the last one, or whoever died
 * before it could say so: within a second while there are no more than `pageSize` of them, and a second more for each as many others.
 */
import { lookAtNextSteps, lookAtSteps, type EachLook } from '#shared/db/each-runs.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';
import type { SignalPublisher } from '#shared/queue/signals.ts';
import { createLoop, type Loop } from './loop.ts';
import { createNotes } from './notes.ts';

const everyMs = 1_000;
const pageSize = 200;
const firstId = '00000000-0000-0000-0000-000000000000';

export interface ItemKeeper extends Loop {
  /** An item of this step has ended, or the step began to wait. */
  note(eachId: string): void;
}

export function createItemKeeper(options: {
  db: Db;
  signals: SignalPublisher;
  /** Jobs are queued: the feeder need not sleep. */
  onResumed: () => void;
  log: Logger;
}): ItemKeeper {
  const { db, signals, onResumed, log } = options;
  let after = firstId;
  let pollMs = 0;

  async function runOnce(): Promise<number> {
    await notes.take(async (ids) => announce(await lookAtSteps(db, ids)));
    const waitMs = pollMs - performance.now();
    if (waitMs > 0) return waitMs;
    const hasEnded = await poll();
    // Thousands of items are ended page after page.
    pollMs = performance.now() + (hasEnded ? 0 : everyMs);
    return hasEnded ? 0 : everyMs;
  }

  /** A page a second: however many steps wait, it costs the same. What is behind is found in its turn. */
  async function poll(): Promise<boolean> {
    const look = await lookAtNextSteps(db, after, pageSize);
    after = look.lookedAt.length < pageSize ? firstId : (look.lookedAt.at(-1) ?? firstId);
    announce(look);
    return look.ended.length > 0;
  }

  function announce({ resumed, ended, asked }: EachLook): void {
    signals.ended(ended);
    for (const id of asked) signals.cancel(id);
    if (resumed.length === 0) return;
    log.info({ jobIds: resumed }, 'the items of steps have ended, the steps go on');
    onResumed();
  }

  const loop = createLoop({ name: 'items', runOnce, log });
  const notes = createNotes(loop.wake);
  return {
    ...loop,
    note: notes.add,
    async stop() {
      notes.stop();
      await loop.stop();
    },
  };
}
