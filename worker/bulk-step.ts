/** What the handler of `jobs.bulk` reaches of the database: pages of its own action, on jobs of its own tenant. */
import { crashPoint } from '#shared/crash-point.ts';
import { openBulkRun, stepBulkRun, type BulkPosition } from '#shared/db/bulk-runs.ts';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import { findOldestJob } from '#shared/db/jobs.ts';
import type { Db } from '#shared/db/pool.ts';
import { uuidTimeMs } from '#shared/ids.ts';
import type { SignalPublisher } from '#shared/queue/signals.ts';
import { parseSearch } from '#shared/search-query.ts';
import type { BulkTaskContext } from '#shared/tasks/task-context.ts';
import { NotNowError } from '#shared/tasks/task-errors.ts';
import type { BulkEffects, TaskRules } from '#shared/db/bulk-actions.ts';
import type { Logger } from '#shared/log.ts';
import type { Storage } from '#shared/storage/storage.ts';
import type { TenantRoom } from './tenant-room.ts';
import { throughOutages } from './through-outages.ts';

const fullMs = 5_000;

export type CreateBulkStep = (job: ClaimedJob, signal: AbortSignal) => BulkTaskContext['bulkStep'];

/** One page at a time for all bulk actions of a worker: they are in no hurry, and searching is heavy. */
export function createBulkSteps(options: {
  db: Db;
  storage: Storage;
  signals: SignalPublisher;
  rules: TaskRules;
  /** While so many wait that no job is accepted, none is queued here. */
  isBacklogFull: () => Promise<boolean>;
  tenantRoom: TenantRoom;
  /** Jobs are queued: the feeder need not sleep. */
  onQueued: () => void;
  log: Logger;
}): CreateBulkStep {
  const { db, storage, signals, rules, isBacklogFull, tenantRoom, onQueued, log } = options;
  let turn: Promise<unknown> = Promise.resolve();

  return (job, signal) => {
    const { tenantId, id: jobId, fence, workerId } = job;
    let at: BulkPosition | undefined;
    let oldestMs: number | undefined;

    async function announce({
      ended = [],
      asked = [],
      queued = 0,
      fileIds = [],
    }: BulkEffects): Promise<void> {
      signals.ended(ended);
      for (const id of asked) signals.cancel(id);
      if (queued > 0) onQueued();
      // The rows are gone, so nobody can reach the bytes any more; the sweep deletes them if this fails.
      await Promise.all(fileIds.map((id) => storage.delete(id))).catch((err: unknown) =>
        log.warn({ err }, 'bytes of deleted jobs are left to the sweep'),
      );
    }

    async function step(
      request: Parameters<BulkTaskContext['bulkStep']>[0],
    ): ReturnType<BulkTaskContext['bulkStep']> {
      signal.throwIfAborted();
      at ??= await openBulkRun(db, tenantId, jobId);
      oldestMs ??= uuidTimeMs((await findOldestJob(db, tenantId)) ?? jobId);
      if (!at.isDone) {
        const { action: type, q, asOf, reason = null } = request;
        const makesJobs = type === 'retry' || type === 'replay';
        if (makesJobs && (await isBacklogFull())) throw notNow('Too many jobs wait.');
        const room = makesJobs ? await tenantRoom.find(tenantId) : Infinity;
        if (room === 0)
          throw notNow(
            'As many jobs of this tenant wait as may wait at once (WINDLASS_WAITING_PER_TENANT_MAX).',
          );
        const page = {
          tenantId,
          jobId,
          fence,
          workerId,
          action: { type, reason },
          terms: parseSearch(q),
          asOf,
          rules,
          jobsMax: room,
        };
        const stepped = await stepBulkRun(db, page, at);
        crashPoint('bulk.after-commit');
        at = stepped.at;
        tenantRoom.take(tenantId, stepped.effects.queued ?? 0);
        await announce(stepped.effects);
      }
      return { ...at, percent: percentOf(at, { fromMs: Date.parse(request.asOf), toMs: oldestMs }) };
    }

    return (request) => {
      const next = turn.then(() =>
        throughOutages(
          () => step(request),
          () => signal.aborted,
        ),
      );
      turn = next.catch(() => {});
      return next;
    };
  };
}

function notNow(why: string): NotNowError {
  return new NotNowError(`${why} It goes on when there are fewer.`, { delayMs: fullMs });
}

/** Ids tell when their jobs were made: how much of the tenant's history has been walked through. */
function percentOf(at: BulkPosition, history: { fromMs: number; toMs: number }): number {
  if (at.isDone) return 100;
  if (at.position === null) return 0;
  const share = (history.fromMs - uuidTimeMs(at.position)) / Math.max(1, history.fromMs - history.toMs);
  return Math.min(99, Math.max(0, share * 100));
}
