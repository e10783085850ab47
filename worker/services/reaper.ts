import { expireJobs, listOtherQueues } from '#shared/db/expire-jobs.ts';
import { pruneWorkers, reapDeadWorkers, type CrashPolicy } from '#shared/db/workers.ts';
import { isFinal } from '#shared/domain/job.ts';
import type { Db } from '#shared/db/pool.ts';
import type { Logger } from '#shared/log.ts';
import type { SignalPublisher } from '#shared/queue/signals.ts';
import { killOrphansOfDeadWorkers } from '../task-host/processes.ts';
import type { LeaseKeeper } from './lease-keeper.ts';
import { createLoop, type Loop } from './loop.ts';

const everyMs = 1_000;

/**
 * Moves on what nobody else would: the jobs of workers that died, and those that came too late in queues that this worker does not
 * serve, and perhaps none does (the feeder has its own in view more often). Of the dead it only judges while this worker's own renewals have worked for a whole lease
 * without a gap: after an outage of Postgres every lease looks expired, and nobody is dead.
 */
export function createReaper(options: {
  db: Db;
  /** Those that this worker serves. */
  queues: readonly string[];
  lease: Pick<LeaseKeeper, 'deadBefore'>;
  policyOf: CrashPolicy;
  signals: SignalPublisher;
  /** Jobs are queued again: the feeder need not sleep. */
  onRevived: () => void;
  log: Logger;
}): Loop {
  const { db, queues, lease, policyOf, signals, log } = options;
  async function runOnce(): Promise<number> {
    await moveOnJobsOfTheDead();
    const others = await listOtherQueues(db, queues);
    if (others.length > 0) signals.ended(await expireJobs(db, others));
    return everyMs;
  }

  async function moveOnJobsOfTheDead(): Promise<void> {
    const deadBefore = lease.deadBefore();
    if (deadBefore === undefined) return;
    const moved = await reapDeadWorkers(db, policyOf, deadBefore);
    if (moved.length > 0) {
      log.warn({ jobs: moved }, 'jobs of a dead worker were moved on');
      signals.ended(moved.filter((job) => isFinal(job.state)).map((job) => job.jobId));
      options.onRevived();
      // If it ran on this machine, its tasks may have left processes that go on working beside the runs that follow.
      killOrphansOfDeadWorkers();
    }
    await pruneWorkers(db);
  }
  return createLoop({ name: 'reaper', runOnce, log });
}
