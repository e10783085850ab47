/**
 * Starts the jobs that wait for batches (shared/db/complete-batches.ts decides): at once when this worker has ended a job of
 * one, and within about a second whatever ended the last job, or whoever died before it could say so.
 */
import { completeBatches, completeNextBatches } from '#shared/db/complete-batches.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';
import { createLoop, type Loop } from './loop.ts';
import { createNotes } from './notes.ts';

const everyMs = 1_000;
const pageSize = 200;
const firstId = '00000000-0000-0000-0000-000000000000';

export interface BatchKeeper extends Loop {
  /** A job of this batch has ended. */
  note(batchId: string): void;
}

export function createBatchKeeper(options: {
  db: Db;
  /** Jobs are queued: the feeder need not sleep. */
  onStarted: () => void;
  log: Logger;
}): BatchKeeper {
  const { db, onStarted, log } = options;
  let after = firstId;
  let pollMs = 0;

  async function runOnce(): Promise<number> {
    await notes.take(async (ids) => announce((await completeBatches(db, ids)).started));
    const waitMs = pollMs - performance.now();
    if (waitMs > 0) return waitMs;
    await poll();
    pollMs = performance.now() + everyMs;
    return everyMs;
  }

  /** A page a second: however many batches wait, it costs the same. What is behind is found in its turn. */
  async function poll(): Promise<void> {
    const { lookedAt, started } = await completeNextBatches(db, after, pageSize);
    after = lookedAt.length < pageSize ? firstId : (lookedAt.at(-1) ?? firstId);
    announce(started);
  }

  function announce(started: readonly string[]): void {
    if (started.length === 0) return;
    log.info({ jobIds: started }, 'batches have ended, the jobs that waited for them start');
    onStarted();
  }

  const loop = createLoop({ name: 'batches', runOnce, log });
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
