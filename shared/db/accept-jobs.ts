/**
 * Accepting jobs: one statement commits, for each job of a group, its idempotency key, its new files, its row,
 * its references to files, and its first event. A 202 is sent after that commit and depends on nothing else.
 *
 * The statement also decides which rows may go to Redis at once (`dispatched_at`), so that an idle system does
 * not wait for the feeder: the queue is not paused, nothing undispatched waits before it, and its window has room.
 */
import type { JobState } from '../domain/job.ts';
import { jsonArray, plainArray, textArray } from './array-literal.ts';
import { hasWaitingSql } from './feed-queues.ts';
import { createGroupCommit, type GroupCommit } from './group-commit.ts';
import {
  isConnectionLost,
  isDataError,
  AmbiguousCommitError,
  sqlState,
  type Db,
  type Queryable,
} from './pool.ts';

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
  /** The batch that it was sent with. */
  readonly batchId: string | null;
  /** Files that the job refers to, new or already stored. */
  readonly inputFiles: readonly string[];
  readonly newFiles: readonly NewFile[];
  readonly idempotency: { readonly key: string; readonly fingerprint: string } | null;
  /** The schedule that made it. */
  readonly scheduleKey: string | null;
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
      readonly isDispatched: boolean;
    }
  | { readonly type: 'duplicate' };

export type AcceptJobs = GroupCommit<NewJob, Acceptance>;

/** While Postgres commits one group, the api answers the last one and gathers the next. */
export const acceptFlightsMax = 2;

export function createAcceptJobs(db: Db): AcceptJobs {
  return createGroupCommit<NewJob, Acceptance>({
    flightsMax: acceptFlightsMax,
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
  dispatched: boolean;
}

/**
 * What most jobs bring, one array parameter per column; and what some bring besides: an idempotency key, new files,
 * references to files, a schedule, a batch. A group in which no job has any of these is inserted without the parts for them, in
 * half the time.
 */
const columns = `$1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::timestamptz[], $8::integer[],
    $9::json[], $10::jsonb[], $11::text[], $12::integer[], $13::bigint[], $14::text[]`;
const columnNames =
  'id, tenant_id, task, queue, priority, delay_ms, run_at, place, input, options, tags, attempts_max, retention_ms, traceparent';
const moreColumns = '$16::text[], $17::jsonb[], $18::text[], $19::text[], $20::text[], $21::uuid[]';
const moreColumnNames = 'input_files, new_files, idempotency_key, fingerprint, schedule_key, batch_id';

// Keys are inserted in order, so that two groups that share keys wait for each other instead of deadlocking.
// `ON CONFLICT DO NOTHING` waits for a transaction in flight with the same key, which is what makes equal
// requests at the same moment end up with one job.
const keyedSql = `item AS MATERIALIZED (
  SELECT * FROM unnest(${columns}, ${moreColumns}) AS i(${columnNames}, ${moreColumnNames})
), keyed AS (
  INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id)
  SELECT tenant_id, idempotency_key, decode(fingerprint, 'hex'), 'job', id FROM item WHERE idempotency_key IS NOT NULL
  ORDER BY tenant_id, idempotency_key
  ON CONFLICT DO NOTHING RETURNING resource_id
), ready AS MATERIALIZED (
  SELECT * FROM item WHERE idempotency_key IS NULL OR id IN (SELECT resource_id FROM keyed)
), file AS (
  INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, expires_at)
  SELECT f.id, r.tenant_id, 'ready', f.name, f."mediaType", f."sizeBytes", decode(f.sha256, 'hex'),
    now() + f."retentionMs" * interval '1 ms'
  FROM ready r CROSS JOIN jsonb_to_recordset(r.new_files) AS f(
    id uuid, name text, "mediaType" text, "sizeBytes" bigint, sha256 text, "retentionMs" bigint)
), reference AS (
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT r.id, f, r.tenant_id FROM ready r CROSS JOIN unnest(r.input_files::uuid[]) AS f
), `;

// `place` counts the jobs of the group that want to run at once, per queue; others wait for the feeder. The gate is
// materialized: it would be asked once per row.
const insertSql = ({ isPlain }: { isPlain: boolean }) => `
WITH ${isPlain ? '' : keyedSql}gate AS MATERIALIZED (
  SELECT q.name, CASE
      WHEN q.is_paused OR ${hasWaitingSql} THEN 0
      ELSE q.window_size - (SELECT count(*) FROM (SELECT 1 FROM jobs d
        WHERE d.queue = q.name AND d.state = 'queued' AND d.dispatched_at IS NOT NULL LIMIT q.window_size) AS dispatched)
    END AS room
  FROM queues q WHERE q.name = ANY($15)
), job AS (
  INSERT INTO jobs (id, tenant_id, task, queue, state, priority, run_at, rank_at, dispatched_at, input, options, tags,
                    attempts_max, retention_ms, traceparent, start_before${isPlain ? '' : ', schedule_key, batch_id'})
  SELECT r.id, r.tenant_id, r.task, r.queue, CASE WHEN due.at > now() THEN 'scheduled'::job_state ELSE 'queued' END,
    r.priority, due.at, due.at - r.priority * interval '60 s', CASE WHEN r.place <= gate.room THEN now() END,
    r.input, r.options, r.tags::text[], r.attempts_max, r.retention_ms, r.traceparent,
    due.at + (r.options->>'startWithinMs')::float8 * interval '1 ms'${isPlain ? '' : ', r.schedule_key, r.batch_id'}
  FROM ${isPlain ? `unnest(${columns}) AS r(${columnNames})` : 'ready r'}
  CROSS JOIN LATERAL (SELECT coalesce(r.run_at, now() + r.delay_ms * interval '1 ms')) AS due(at)
  LEFT JOIN gate ON gate.name = r.queue
  RETURNING id, tenant_id, state, created_at, dispatched_at IS NOT NULL AS dispatched
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.' || state FROM job
)
SELECT id, state, created_at, dispatched FROM job`;

const insertStatements = {
  plain: { name: 'accept-jobs', text: insertSql({ isPlain: true }) },
  full: { name: 'accept-jobs-full', text: insertSql({ isPlain: false }) },
};

/**
 * The statement itself, for one group; also inside a transaction that decides more than that.
 * @param dispatch `later` leaves all of them to the feeder: whoever makes them adds nothing to Redis.
 */
export async function insertJobs(
  db: Queryable,
  jobs: readonly NewJob[],
  dispatch: 'now' | 'later' = 'now',
): Promise<Acceptance[]> {
  const isPlain = jobs.every(
    (job) =>
      job.idempotency === null &&
      job.newFiles.length === 0 &&
      job.inputFiles.length === 0 &&
      job.scheduleKey === null &&
      job.batchId === null,
  );
  const { rows } = await db.query<AcceptedRow>({
    ...(isPlain ? insertStatements.plain : insertStatements.full),
    values: [
      plainArray(jobs.map((job) => job.id)),
      textArray(jobs.map((job) => job.tenantId)),
      textArray(jobs.map((job) => job.task)),
      textArray(jobs.map((job) => job.queue)),
      plainArray(jobs.map((job) => job.priority)),
      plainArray(jobs.map((job) => job.delayMs)),
      textArray(jobs.map((job) => job.runAt)),
      plainArray(dispatch === 'now' ? placesOf(jobs) : jobs.map(() => 'NULL' as const)),
      jsonArray(jobs.map((job) => job.input)),
      jsonArray(jobs.map((job) => job.options)),
      textArray(jobs.map((job) => textArray(job.tags))),
      plainArray(jobs.map((job) => job.attemptsMax)),
      plainArray(jobs.map((job) => job.retentionMs)),
      textArray(jobs.map((job) => job.traceparent)),
      textArray([...new Set(jobs.map((job) => job.queue))]),
      ...(isPlain ? [] : rareColumns(jobs)),
    ],
  });
  const accepted = new Map(rows.map((row) => [row.id, row]));
  return jobs.map((job) => toAcceptance(accepted.get(job.id)));
}

function rareColumns(jobs: readonly NewJob[]): string[] {
  return [
    textArray(jobs.map((job) => plainArray(job.inputFiles))),
    jsonArray(jobs.map((job) => job.newFiles)),
    textArray(jobs.map((job) => job.idempotency?.key ?? null)),
    textArray(jobs.map((job) => job.idempotency?.fingerprint ?? null)),
    textArray(jobs.map((job) => job.scheduleKey)),
    textArray(jobs.map((job) => job.batchId)),
  ];
}

/** The how-manieth of its queue each job is that wants to run at once; NULL for those that come later. */
function placesOf(jobs: readonly NewJob[]): (number | 'NULL')[] {
  const counts = new Map<string, number>();
  return jobs.map((job) => {
    if (job.delayMs > 0 || job.runAt !== null) return 'NULL';
    const place = (counts.get(job.queue) ?? 0) + 1;
    counts.set(job.queue, place);
    return place;
  });
}

/** A commit whose answer was lost is never guessed: the row tells (faults.md, F4). */
async function findAccepted(db: Db, job: NewJob, cause: unknown): Promise<Acceptance> {
  try {
    const { rows } = await db.query<AcceptedRow>(
      'SELECT id, state, created_at, dispatched_at IS NOT NULL AS dispatched FROM jobs WHERE id = $1',
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
    isDispatched: row.dispatched,
  };
}
