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
import { throughOutages } from './through-outages.ts';

export type CreateBulkStep = (job: ClaimedJob, signal: AbortSignal) => BulkTaskContext['bulkStep'];

/** One page at a time for all bulk actions of a worker: they are in no hurry, and searching is heavy. */
export function createBulkSteps(options: { db: Db; signals: SignalPublisher }): CreateBulkStep {
  const { db, signals } = options;
  let turn: Promise<unknown> = Promise.resolve();

  return (job, signal) => {
    const { tenantId, id: jobId, fence } = job;
    let at: BulkPosition | undefined;
    let oldestMs: number | undefined;

    async function step(
      request: Parameters<BulkTaskContext['bulkStep']>[0],
    ): ReturnType<BulkTaskContext['bulkStep']> {
      signal.throwIfAborted();
      at ??= await openBulkRun(db, tenantId, jobId);
      oldestMs ??= uuidTimeMs((await findOldestJob(db, tenantId)) ?? jobId);
      if (!at.isDone) {
        const { action: type, q, asOf, reason = null } = request;
        const page = { tenantId, jobId, fence, action: { type, reason }, terms: parseSearch(q), asOf };
        const stepped = await stepBulkRun(db, page, at);
        crashPoint('bulk.after-commit');
        at = stepped.at;
        signals.ended(stepped.effects.ended);
        for (const id of stepped.effects.asked) signals.cancel(id);
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

/** Ids tell when their jobs were made: how much of the tenant's history has been walked through. */
function percentOf(at: BulkPosition, history: { fromMs: number; toMs: number }): number {
  if (at.isDone) return 100;
  if (at.position === null) return 0;
  const share = (history.fromMs - uuidTimeMs(at.position)) / Math.max(1, history.fromMs - history.toMs);
  return Math.min(99, Math.max(0, share * 100));
}
