/**
 * Accepting jobs: one statement commits, for each job of a group, its idempotency key, its new files, its row,
 * its references to files, and its first event. A 202 is sent after that commit and depends on nothing else.
 *
 * The statement also decides which rows may go to Redis at once (`dispatched_at`), so that an idle system does
 * not wait for the feeder: the queue is not paused, nothing undispatched waits before it, and its window has room.
 */
import type { JobState } from '../domain/job.ts';
import { hasWaitingSql } from './feed-queues.ts';
import { createGroupCommit, type GroupCommit } from './group-commit.ts';
import { isConnectionLost, isDataError, AmbiguousCommitError, sqlState, type Db } from './pool.ts';

/** A job that passed all checks. Times are given as delays: the database's clock decides (faults.md, R11). */
export interface NewJob {
  readonly id: string;
  readonly tenantId: string;
  readonly task: string;
  readonly queue: string;
  readonly priority: number;
  /** Either a delay in ms from now, or an ISO 8601 instant. */
  readonly delayMs: number;
  readonly runAt: string | null;
  readonly input: unknown;
  readonly options: Readonly<Record<string, unknown>>;
  readonly tags: readonly string[];
  readonly attemptsMax: number;
  readonly retentionMs: number;
  readonly traceparent: string | null;
  /** Files that the job refers to, new or already stored. */
  readonly inputFiles: readonly string[];
  readonly newFiles: readonly NewFile[];
  readonly idempotency: { readonly key: string; readonly fingerprint: string } | null;
}

/** A file whose bytes are durable and whose row is not yet there. */
export interface NewFile {
  readonly id: string;
  readonly name: string;
  readonly mediaType: string;
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
  readonly retentionMs: number;
}

/** `accepted`: the row is new. `duplicate`: the idempotency key was there before, and nothing was written. */
export type Acceptance =
  | {
      readonly type: 'accepted';
      readonly state: JobState;
      readonly createdAt: Date;
      readonly runAt: Date;
      readonly isDispatched: boolean;
    }
  | { readonly type: 'duplicate' };

export type AcceptJobs = GroupCommit<NewJob, Acceptance>;

export function createAcceptJobs(db: Db): AcceptJobs {
  return createGroupCommit<NewJob, Acceptance>({
    flush: (jobs) => insertJobs(db, jobs),
    recover: (job, err) => findAccepted(db, job, err),
  });
}

/** The foreign key of `job_inputs` refused: a file was deleted between its check and the commit. */
export function isMissingFileError(err: unknown): boolean {
  return isDataError(err) && sqlState(err) === '23503';
}

interface AcceptedRow {
  id: string;
  state: JobState;
  created_at: Date;
  run_at: Date;
  dispatched: boolean;
}

// Keys are inserted in order, so that two groups that share keys wait for each other instead of deadlocking.
// `ON CONFLICT DO NOTHING` waits for a transaction in flight with the same key, which is what makes equal
// requests at the same moment end up with one job.
const insertSql = `
WITH item AS MATERIALIZED (
  SELECT * FROM json_to_recordset($1::json) AS t(
    "id" uuid, "tenantId" text, "task" text, "queue" text, "priority" smallint, "delayMs" bigint, "runAt" timestamptz,
    "input" json, "options" jsonb, "tags" text[], "attemptsMax" integer, "retentionMs" bigint, "traceparent" text,
    "inputFiles" uuid[], "newFiles" jsonb, "idempotencyKey" text, "fingerprint" bytea)
), keyed AS (
  INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id)
  SELECT "tenantId", "idempotencyKey", fingerprint, 'job', id FROM item WHERE "idempotencyKey" IS NOT NULL
  ORDER BY "tenantId", "idempotencyKey"
  ON CONFLICT DO NOTHING RETURNING resource_id
), gate AS (
  SELECT q.name, CASE
      WHEN q.is_paused OR ${hasWaitingSql} THEN 0
      ELSE q.window_size - (SELECT count(*) FROM (SELECT 1 FROM jobs d
        WHERE d.queue = q.name AND d.state = 'queued' AND d.dispatched_at IS NOT NULL LIMIT 1000) AS dispatched)
    END AS room
  FROM queues q WHERE q.name IN (SELECT queue FROM item)
), ready AS (
  SELECT item.*, coalesce("runAt", now() + "delayMs" * interval '1 ms') AS due,
    row_number() OVER (PARTITION BY queue, coalesce("runAt", now() + "delayMs" * interval '1 ms') <= now() ORDER BY id) AS place
  FROM item WHERE "idempotencyKey" IS NULL OR id IN (SELECT resource_id FROM keyed)
), job AS (
  INSERT INTO jobs (id, tenant_id, task, queue, state, priority, run_at, rank_at, dispatched_at, input, options, tags,
                    attempts_max, retention_ms, traceparent)
  SELECT r.id, r."tenantId", r.task, r.queue, CASE WHEN r.due > now() THEN 'scheduled'::job_state ELSE 'queued' END,
    r.priority, r.due, r.due - r.priority * interval '60 s',
    CASE WHEN r.due <= now() AND r.place <= gate.room THEN now() END,
    r.input, r.options, r.tags, r."attemptsMax", r."retentionMs", r.traceparent
  FROM ready r LEFT JOIN gate ON gate.name = r.queue
  RETURNING id, tenant_id, state, created_at, run_at, dispatched_at IS NOT NULL AS dispatched
), file AS (
  INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, expires_at)
  SELECT f.id, r."tenantId", 'ready', f.name, f."mediaType", f."sizeBytes", decode(f.sha256, 'hex'),
    now() + f."retentionMs" * interval '1 ms'
  FROM ready r CROSS JOIN jsonb_to_recordset(r."newFiles") AS f(
    id uuid, name text, "mediaType" text, "sizeBytes" bigint, sha256 text, "retentionMs" bigint)
), reference AS (
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT r.id, f, r."tenantId" FROM ready r CROSS JOIN unnest(r."inputFiles") AS f
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.' || state FROM job
)
SELECT id, state, created_at, run_at, dispatched FROM job`;

async function insertJobs(db: Db, jobs: readonly NewJob[]): Promise<Acceptance[]> {
  const items = jobs.map(({ idempotency, ...job }) => ({
    ...job,
    idempotencyKey: idempotency?.key ?? null,
    fingerprint: idempotency === null ? null : `\\x${idempotency.fingerprint}`,
  }));
  const { rows } = await db.query<AcceptedRow>({
    name: 'accept-jobs',
    text: insertSql,
    values: [JSON.stringify(items)],
  });
  const accepted = new Map(rows.map((row) => [row.id, row]));
  return jobs.map((job) => toAcceptance(accepted.get(job.id)));
}

/** A commit whose answer was lost is never guessed: the row tells (faults.md, F4). */
async function findAccepted(db: Db, job: NewJob, cause: unknown): Promise<Acceptance> {
  try {
    const { rows } = await db.query<AcceptedRow>(
      'SELECT id, state, created_at, run_at, dispatched_at IS NOT NULL AS dispatched FROM jobs WHERE id = $1',
      [job.id],
    );
    if (rows[0] !== undefined) return toAcceptance(rows[0]);
  } catch (err) {
    if (!isConnectionLost(err)) throw err;
  }
  // Not there now; the server may still be committing it, so its bytes must not be deleted by the caller.
  throw new AmbiguousCommitError(cause);
}

function toAcceptance(row: AcceptedRow | undefined): Acceptance {
  if (row === undefined) return { type: 'duplicate' };
  return {
    type: 'accepted',
    state: row.state,
    createdAt: row.created_at,
    runAt: row.run_at,
    isDispatched: row.dispatched,
  };
}
