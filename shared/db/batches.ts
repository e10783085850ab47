/**
 * Batches: jobs that were sent in one request. A list of jobs is accepted in one transaction, all of it or nothing; a
 * stream accepts each line by itself and only carries the batch's id.
 *
 * The ids of a list's jobs follow the id of the batch, in the order of the list (`uuidAfter`), so the answer to a repeated
 * request is made from the batch alone.
 */
import type { FieldError, ErrorCode } from '../errors.ts';
import type { JobState } from '../domain/job.ts';
import { insertJobs, type NewJob } from './accept-jobs.ts';
import type { QueueDelivery } from './feed-queues.ts';
import {
  AmbiguousCommitError,
  inTransaction,
  isConnectionLost,
  isTransactionRetryable,
  useHotPlans,
  type Db,
  type Queryable,
} from './pool.ts';

export interface NewBatch {
  readonly id: string;
  readonly tenantId: string;
  readonly jobs: readonly NewJob[];
  readonly refused: readonly RefusedItem[];
  /** Starts when all jobs have ended. `fillsBatch`: its `input.batch` then says how. */
  readonly onComplete: { readonly job: NewJob; readonly fillsBatch: boolean } | undefined;
  readonly idempotency: { readonly key: string; readonly fingerprint: string } | undefined;
}

/** An item of a permissive batch that was not accepted, and why. */
export interface RefusedItem {
  readonly index: number;
  readonly code: ErrorCode;
  readonly message: string;
  readonly errors: readonly FieldError[];
}

export type BatchAcceptance =
  | { readonly type: 'accepted'; readonly createdAt: Date; readonly deliveries: readonly QueueDelivery[] }
  /** The idempotency key was there before, and nothing was written. */
  | { readonly type: 'duplicate' };

const triesMax = 3;

/**
 * Commits the batch with all its jobs, or nothing.
 * @param beforeCommit called when everything is written and nothing is committed.
 * @throws what `isMissingFileError` knows when a file of an input was deleted in the meantime; AmbiguousCommitError when
 *   the connection was lost and only a later look can tell.
 */
export async function acceptBatch(
  db: Db,
  batch: NewBatch,
  beforeCommit: () => void = () => {},
): Promise<BatchAcceptance> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await inTransaction(db, async (client) => {
        const acceptance = await insertBatch(client, batch);
        beforeCommit();
        return acceptance;
      });
    } catch (err) {
      if (err instanceof AmbiguousCommitError) return await findAccepted(db, batch, err);
      // Most often another request with the same key is being committed: the next look sees its row.
      if (!isTransactionRetryable(err) || tries === triesMax) throw err;
    }
  }
}

async function insertBatch(client: Queryable, batch: NewBatch): Promise<BatchAcceptance> {
  const { id, tenantId, jobs, onComplete, idempotency } = batch;
  await useHotPlans(client);
  if (idempotency !== undefined && !(await takeKey(client, tenantId, id, idempotency)))
    return { type: 'duplicate' };
  const { rows } = await client.query<{ created_at: Date }>(
    `INSERT INTO batches (id, tenant_id, size, refused, on_complete_job_id, on_complete_fills)
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING created_at`,
    [
      id,
      tenantId,
      jobs.length,
      JSON.stringify(batch.refused),
      onComplete?.job.id ?? null,
      onComplete?.fillsBatch ?? false,
    ],
  );
  const [row] = rows;
  if (row === undefined) throw new Error('INSERT … RETURNING answered no row.');
  const acceptances = await insertJobs(client, jobs);
  if (onComplete !== undefined) await insertBlockedJob(client, onComplete.job);
  const deliveries = jobs.flatMap((job, index) => {
    const acceptance = acceptances[index];
    return acceptance?.type === 'accepted' && acceptance.isDispatched
      ? [{ jobId: job.id, fence: 0, queue: job.queue }]
      : [];
  });
  return { type: 'accepted', createdAt: row.created_at, deliveries };
}

/** Waits for a transaction in flight with the same key, so equal requests at the same moment end up with one batch. */
async function takeKey(
  client: Queryable,
  tenantId: string,
  batchId: string,
  { key, fingerprint }: { key: string; fingerprint: string },
): Promise<boolean> {
  const { rowCount } = await client.query(
    `INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id)
     VALUES ($1, $2, decode($3, 'hex'), 'batch', $4) ON CONFLICT DO NOTHING`,
    [tenantId, key, fingerprint, batchId],
  );
  return rowCount === 1;
}

/** It exists, and holds its files, from the beginning; `completeBatches` lets it go. */
async function insertBlockedJob(client: Queryable, job: NewJob): Promise<void> {
  await client.query(
    `WITH job AS (
       INSERT INTO jobs (id, tenant_id, task, queue, state, priority, run_at, rank_at, input, options, tags, attempts_max, retention_ms, traceparent)
       VALUES ($1, $2, $3, $4, 'blocked', $5, now(), now(), $6, $7, $8, $9, $10, $11) RETURNING id, tenant_id
     ), reference AS (
       INSERT INTO job_inputs (job_id, file_id, tenant_id) SELECT job.id, f, job.tenant_id FROM job CROSS JOIN unnest($12::uuid[]) AS f
     )
     INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.blocked' FROM job`,
    [
      job.id,
      job.tenantId,
      job.task,
      job.queue,
      job.priority,
      JSON.stringify(job.input),
      JSON.stringify(job.options),
      job.tags,
      job.attemptsMax,
      job.retentionMs,
      job.traceparent,
      job.inputFiles,
    ],
  );
}

/** A commit whose answer was lost is never guessed: the row tells (faults.md, F4). Repair dispatches its jobs. */
async function findAccepted(db: Db, batch: NewBatch, cause: unknown): Promise<BatchAcceptance> {
  try {
    const row = await findBatch(db, batch.tenantId, batch.id);
    if (row !== undefined) return { type: 'accepted', createdAt: row.created_at, deliveries: [] };
  } catch (err) {
    if (!isConnectionLost(err)) throw err;
  }
  throw new AmbiguousCommitError(cause);
}

/**
 * Makes the row of a stream's batch. With a key, a stream that was broken off goes on in the batch that it began.
 * @returns undefined when the key was there before; nothing was written then.
 */
export async function insertStreamBatch(
  db: Queryable,
  tenantId: string,
  id: string,
  idempotency: { key: string; fingerprint: string } | undefined,
): Promise<{ id: string } | undefined> {
  const { rows } = await db.query<{ id: string }>(
    `WITH keyed AS (
       INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id)
       SELECT $2, $3, decode($4, 'hex'), 'batch', $1 WHERE $3::text IS NOT NULL
       ON CONFLICT DO NOTHING RETURNING resource_id
     )
     INSERT INTO batches (id, tenant_id) SELECT $1, $2 WHERE $3::text IS NULL OR EXISTS (SELECT 1 FROM keyed) RETURNING id`,
    [id, tenantId, idempotency?.key ?? null, idempotency?.fingerprint ?? null],
  );
  return rows[0];
}

export interface BatchRow {
  readonly id: string;
  readonly created_at: Date;
  /** Null for a stream. */
  readonly size: number | null;
  readonly refused: readonly RefusedItem[];
  readonly on_complete_job_id: string | null;
}

export async function findBatch(db: Queryable, tenantId: string, id: string): Promise<BatchRow | undefined> {
  const { rows } = await db.query<BatchRow>(
    'SELECT id, created_at, size, refused, on_complete_job_id FROM batches WHERE tenant_id = $1 AND id = $2',
    [tenantId, id],
  );
  return rows[0];
}

/** How many jobs of the batch are in each state. */
export async function countBatch(
  db: Queryable,
  tenantId: string,
  id: string,
): Promise<{ state: JobState; count: number }[]> {
  const { rows } = await db.query<{ state: JobState; count: number }>(
    'SELECT state, count(*) AS count FROM jobs WHERE tenant_id = $1 AND batch_id = $2 GROUP BY state',
    [tenantId, id],
  );
  return rows;
}

/**
 * Looks at the next `limit` batches made before `keptMs` ago, by id, and deletes those whose jobs are all gone.
 * @returns the id to go on after; undefined at the end.
 */
export async function pruneBatches(
  db: Queryable,
  options: { after: string; keptMs: number; limit: number },
): Promise<string | undefined> {
  const { rows } = await db.query<{ id: string }>(
    `WITH old AS MATERIALIZED (
       SELECT id, on_complete_job_id, completed_at FROM batches
       WHERE id > $1 AND created_at < now() - $2 * interval '1 ms' ORDER BY id LIMIT $3
     ), pruned AS (
       DELETE FROM batches WHERE id IN (SELECT o.id FROM old o WHERE (o.on_complete_job_id IS NULL OR o.completed_at IS NOT NULL)
         AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.batch_id = o.id))
     )
     SELECT id FROM old ORDER BY id DESC LIMIT 1`,
    [options.after, options.keptMs, options.limit],
  );
  return rows[0]?.id;
}
