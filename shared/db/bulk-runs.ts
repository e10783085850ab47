/**
 * Bulk actions: the same thing done to every job that a search finds, page by page. A page is found first, outside of any
 * transaction, because searching may take seconds. Then one transaction does it to the page and moves the position on, if
 * nobody else has; so a run that dies, and one that was superseded without knowing, leave whole pages only.
 *
 * The jobs are those that had been made when the action was asked for, each looked at once, from the newest to the
 * oldest: it ends, however many are made meanwhile.
 */
import { crashPoint } from '../crash-point.ts';
import { assertNever } from '../errors.ts';
import type { BulkEffects, JobProblem, PageOutcome, TaskRules } from './bulk-actions.ts';
import { cancelJobs } from './cancel-jobs.ts';
import { deleteJobs } from './delete-jobs.ts';
import { lockFeedingSql } from './feed-queues.ts';
import { inTransaction, isTransactionRetryable, type Db, type Queryable } from './pool.ts';
import { replayJobs } from './replay-jobs.ts';
import { retryJobs } from './retry-jobs.ts';
import { newestId, searchJobIds, type JobTerm } from './search-jobs.ts';
import type { OwnedRun } from './workers.ts';

export interface BulkAction {
  readonly type: 'cancel' | 'retry' | 'delete' | 'replay';
  /** Kept with each job that is cancelled. */
  readonly reason: string | null;
}

export interface BulkRequest extends OwnedRun {
  readonly tenantId: string;
  readonly action: BulkAction;
  readonly terms: readonly JobTerm[];
  /** ISO 8601: jobs made later are left alone, and ages are meant as of then. */
  readonly asOf: string;
  readonly rules: TaskRules;
  /** Most jobs in this page, at least 1. Default: as many as fit into one transaction. */
  readonly jobsMax?: number;
}

/** How far it is. */
export interface BulkPosition {
  readonly position: string | null;
  readonly isDone: boolean;
  /** Jobs that were found, and what became of them. */
  readonly matched: number;
  readonly done: number;
  /** What the action cannot be done to, such as cancelling a job that has ended. */
  readonly skipped: number;
  /** What it should have been done to, and could not; `errors` holds the first of them. */
  readonly failed: number;
  readonly errors: readonly JobProblem[];
}

/** The run lost its job; whoever owns it goes on. */
export class BulkSupersededError extends Error {
  override name = 'BulkSupersededError';
}

/** A page of retries and replays brings the inputs of its jobs into memory, and they may be large. */
const pageSizes = { cancel: 200, delete: 200, retry: 50, replay: 50 } as const;
const searchMs = 1_000;
const triesMax = 3;

/** Finds the row of the action, or makes it. */
export async function openBulkRun(db: Db, tenantId: string, jobId: string): Promise<BulkPosition> {
  await db.query(
    `INSERT INTO bulk_runs (job_id, tenant_id) SELECT id, tenant_id FROM jobs WHERE id = $1 AND tenant_id = $2 ON CONFLICT DO NOTHING`,
    [jobId, tenantId],
  );
  return read(db, tenantId, jobId);
}

/**
 * Does one page, after `from`.
 * @returns how far the action is then, also when another run has moved it on.
 * @throws BulkSupersededError when this run does not own the job any more.
 */
export async function stepBulkRun(
  db: Db,
  request: BulkRequest,
  from: BulkPosition,
): Promise<{ at: BulkPosition; effects: BulkEffects }> {
  const { terms, asOf, tenantId } = request;
  const page = await searchJobIds(db, tenantId, {
    terms,
    asOf,
    limit: Math.min(pageSizes[request.action.type], request.jobsMax ?? Infinity),
    budgetMs: searchMs,
    before: from.position ?? newestId,
  });
  for (let tries = 1; ; tries += 1) {
    try {
      return await inTransaction(db, (client) => doPage(client, request, from, page));
    } catch (err) {
      if (!isTransactionRetryable(err) || tries === triesMax) throw err;
    }
  }
}

async function doPage(
  client: Queryable,
  request: BulkRequest,
  from: BulkPosition,
  page: { ids: readonly string[]; next: string | undefined },
): Promise<{ at: BulkPosition; effects: BulkEffects }> {
  const { tenantId, jobId } = request;
  const current = await lock(client, request);
  if (current.position !== from.position || current.isDone) return { at: current, effects: {} };
  const { done, errors, ...effects } = await act(client, request, page.ids);
  const at: BulkPosition = {
    position: page.next ?? from.position,
    isDone: page.next === undefined,
    matched: from.matched + page.ids.length,
    done: from.done + done,
    skipped: from.skipped + page.ids.length - done - errors.length,
    failed: from.failed + errors.length,
    errors: [...from.errors, ...errors].slice(0, bulkErrorsMax),
  };
  // Last, because its row is younger than those of the page: until the commit nobody can end the run and say so.
  const { rowCount } = await client.query(
    `SELECT 1 FROM jobs WHERE tenant_id = $1 AND id = $2 AND fence = $3 AND worker_id = $4 AND state = 'active' FOR SHARE`,
    [tenantId, jobId, request.fence, request.workerId],
  );
  if (rowCount === 0) throw superseded();
  await client.query(
    `UPDATE bulk_runs SET position = $3, is_done = $4, matched = $5, done = $6, skipped = $7, failed = $8, errors = $9
     WHERE tenant_id = $1 AND job_id = $2`,
    [
      tenantId,
      jobId,
      at.position,
      at.isDone,
      at.matched,
      at.done,
      at.skipped,
      at.failed,
      JSON.stringify(at.errors),
    ],
  );
  crashPoint('bulk.before-commit');
  return { at, effects };
}

export const bulkErrorsMax = 100;

async function act(
  client: Queryable,
  { tenantId, action, rules }: BulkRequest,
  ids: readonly string[],
): Promise<PageOutcome> {
  if (ids.length === 0) return { done: 0, errors: [] };
  switch (action.type) {
    case 'cancel': {
      await keepFeedersAway(client, tenantId, ids);
      const { ended, asked } = await cancelJobs(client, tenantId, ids, action.reason);
      return { done: ended.length + asked.length, errors: [], ended, asked };
    }
    case 'retry':
      return retryJobs(client, tenantId, ids, rules.findFiles);
    case 'delete':
      return deleteJobs(client, tenantId, ids);
    case 'replay':
      return replayJobs(client, tenantId, ids, rules.makeAgain);
    default:
      return assertNever(action.type);
  }
}

/** A feeder marks rows in another order than that of their ids: taking turns with it, neither can deadlock. */
async function keepFeedersAway(client: Queryable, tenantId: string, ids: readonly string[]): Promise<void> {
  const { rows } = await client.query<{ queue: string }>(
    'SELECT DISTINCT queue FROM jobs WHERE tenant_id = $1 AND id = ANY($2::uuid[]) ORDER BY queue',
    [tenantId, ids],
  );
  for (const { queue } of rows) await client.query(lockFeedingSql, [queue]);
}

interface Row {
  position: string | null;
  is_done: boolean;
  matched: number;
  done: number;
  skipped: number;
  failed: number;
  errors: JobProblem[];
}

async function read(db: Queryable, tenantId: string, jobId: string): Promise<BulkPosition> {
  const { rows } = await db.query<Row>(
    'SELECT position, is_done, matched, done, skipped, failed, errors FROM bulk_runs WHERE tenant_id = $1 AND job_id = $2',
    [tenantId, jobId],
  );
  return toPosition(rows[0]);
}

/** The row of the action, for this run alone until the transaction ends, if the job is still this run's. */
async function lock(
  client: Queryable,
  { tenantId, jobId, fence, workerId }: BulkRequest,
): Promise<BulkPosition> {
  const { rows } = await client.query<Row>(
    `SELECT r.position, r.is_done, r.matched, r.done, r.skipped, r.failed, r.errors FROM bulk_runs r
     WHERE r.tenant_id = $1 AND r.job_id = $2 AND EXISTS (
       SELECT 1 FROM jobs j WHERE j.tenant_id = $1 AND j.id = $2 AND j.fence = $3 AND j.worker_id = $4 AND j.state = 'active')
     FOR UPDATE OF r`,
    [tenantId, jobId, fence, workerId],
  );
  return toPosition(rows[0]);
}

function toPosition(row: Row | undefined): BulkPosition {
  if (row === undefined) throw superseded();
  const { is_done: isDone, ...rest } = row;
  return { ...rest, isDone };
}

function superseded(): BulkSupersededError {
  return new BulkSupersededError('The run does not own its job any more.');
}
