/**
 * Accepting jobs: one statement commits, for each job of a group, its idempotency key, its new files, its row,
 * its references to files, and its first event. A 202 is sent after that commit and depends on nothing else.
 *
 * The statement also decides which rows may go to Redis at once (`dispatched_at`), so that an idle system does
 * not wait for the feeder: the queue is not paused, nothing undispatched waits before it, and its window has room.
 */
import type { UniqueKey } from '../domain/unique-key.ts';
import { jsonArray, plainArray, textArray } from './array-literal.ts';
import { linkDependencies, type NewDependency } from './dependencies.ts';
import { isParkedSql } from './feed-keys.ts';
import { hasWaitingSql } from './feed-queues.ts';
import { createGroupCommit, type GroupCommit } from './group-commit.ts';
import {
  isConnectionLost,
  isDataError,
  AmbiguousCommitError,
  inTransaction,
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
  /** Only unique-jobs.ts takes such jobs. */
  readonly uniqueKey?: UniqueKey;
  /** At most `max` jobs with this key, in its tenant and queue, are dispatched or active at once. */
  readonly concurrency?: { readonly key: string; readonly max: number };
  /** Jobs that it waits for. The ids of parents must be those of committed jobs, or of jobs that are accepted with it. */
  readonly dependsOn?: readonly NewDependency[];
  /** The workflow that it is a step of. */
  readonly workflow?: { readonly id: string; readonly step: string };
  /** The item of a step that it is for, with the job of the step (each-runs.ts). */
  readonly item?: { readonly eachId: string; readonly index: number };
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

/**
 * `accepted`: the row is new. `duplicate`: the idempotency key was there before, and nothing was written. `held`: another job
 * has the unique key; `isReplaced`: it has got the input and the files of this one.
 */
export type Acceptance =
  | {
      readonly type: 'accepted';
      readonly createdAt: Date;
      readonly isDispatched: boolean;
    }
  | { readonly type: 'duplicate' }
  | { readonly type: 'held'; readonly jobId: string; readonly isReplaced: boolean };

export type AcceptJobs = GroupCommit<NewJob, Acceptance>;

/** While Postgres commits one group, the api answers the last one and gathers the next. */
export const acceptFlightsMax = 2;

export function createAcceptJobs(db: Db): AcceptJobs {
  return createGroupCommit<NewJob, Acceptance>({
    flightsMax: acceptFlightsMax,
    flush: (jobs) => (jobs.some(isDependent) ? insertDependent(db, jobs) : insertJobs(db, jobs)),
    recover: (job, err) => findAccepted(db, job, err),
  });
}

/** Edges are written after the rows, so a group that has any is a transaction. */
async function insertDependent(db: Db, jobs: readonly NewJob[]): Promise<Acceptance[]> {
  try {
    return await inTransaction(db, (client) => insertJobs(client, jobs));
  } catch (err) {
    // As after a statement that committed itself: each row is asked for.
    if (err instanceof AmbiguousCommitError) throw err.cause;
    throw err;
  }
}

function isDependent(job: NewJob): boolean {
  return job.dependsOn !== undefined && job.dependsOn.length > 0;
}

/** The foreign key of `job_inputs` refused: a file was deleted between its check and the commit. */
export function isMissingFileError(err: unknown): boolean {
  return isDataError(err) && sqlState(err) === '23503';
}

/** One row for a group: a row for each of its jobs took longer to read than to write. Ids are joined by commas. */
interface AcceptedRow {
  created_at: Date;
  count: number;
  dispatched: string | null;
  /** Of those whose idempotency key was there before. Not where no job has one. */
  duplicates?: string | null;
}

/**
 * What most jobs bring, one array parameter per column; and what some bring besides: an idempotency key, new files,
 * references to files, a schedule, a concurrency key, parents, a workflow, a batch. A group in which no job has any of these is
 * inserted without the parts for them, in half the time.
 */
const columns = `$1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::timestamptz[], $8::integer[],
    $9::json[], $10::jsonb[], $11::text[], $12::integer[], $13::bigint[], $14::text[]`;
const columnNames =
  'id, tenant_id, task, queue, priority, delay_ms, run_at, place, input, options, tags, attempts_max, retention_ms, traceparent';
const moreColumns =
  '$16::text[], $17::jsonb[], $18::text[], $19::text[], $20::text[], $21::text[], $22::integer[], $23::boolean[], $24::text[], $25::text[], $26::uuid[], $27::text[], $28::integer[]';
const moreColumnNames =
  'input_files, new_files, idempotency_key, fingerprint, schedule_key, concurrency_key, concurrency_max, is_blocked, workflow_id, workflow_step, batch_id, each_id, each_index';

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

// `place` counts the jobs of the group that want to run at once, per queue; others wait for the feeder, which alone decides on
// jobs with a key and on queues with a rate. The gate is materialized: it would be asked once per row. A job whose key
// has others waiting for room is parked behind them (feed-keys.ts).
const parkedSql = `
  CROSS JOIN LATERAL (SELECT CASE WHEN r.concurrency_key IS NOT NULL AND due.at <= now() AND EXISTS (
    SELECT 1 FROM jobs p WHERE p.queue = r.queue AND p.tenant_id = r.tenant_id AND p.concurrency_key = r.concurrency_key
      AND ${isParkedSql('p')}) THEN due.rank_at END) AS parked(rank_at)`;

const insertSql = ({ isPlain }: { isPlain: boolean }) => `
WITH ${isPlain ? '' : keyedSql}gate AS MATERIALIZED (
  SELECT q.name, CASE
      WHEN q.is_paused OR q.rate_max IS NOT NULL OR ${hasWaitingSql} THEN 0
      ELSE q.window_size - (SELECT count(*) FROM (SELECT 1 FROM jobs d
        WHERE d.queue = q.name AND d.state = 'queued' AND d.dispatched_at IS NOT NULL LIMIT q.window_size) AS dispatched)
    END AS room
  FROM queues q WHERE q.name = ANY($15)
), job AS (
  INSERT INTO jobs (id, tenant_id, task, queue, state, priority, run_at, rank_at, dispatched_at, input, options, tags,
                    attempts_max, retention_ms, traceparent, schedule_key, start_before${isPlain ? '' : ', concurrency_key, concurrency_max, parked_rank_at, workflow_id, workflow_step, batch_id, each_id, each_index'})
  SELECT r.id, r.tenant_id, r.task, r.queue, CASE ${isPlain ? '' : `WHEN r.is_blocked THEN 'blocked'::job_state `}WHEN due.at > now() THEN 'scheduled'::job_state ELSE 'queued' END,
    r.priority, due.at, ${isPlain ? 'due.rank_at' : `CASE WHEN parked.rank_at IS NULL OR r.is_blocked THEN due.rank_at ELSE 'infinity' END`}, CASE WHEN r.place <= gate.room THEN now() END,
    r.input, r.options, r.tags::text[], r.attempts_max, r.retention_ms, r.traceparent, ${isPlain ? 'NULL' : 'r.schedule_key'},
    due.at + (r.options->>'startWithinMs')::float8 * interval '1 ms'${isPlain ? '' : ', r.concurrency_key, r.concurrency_max, CASE WHEN NOT r.is_blocked THEN parked.rank_at END, r.workflow_id::uuid, r.workflow_step, r.batch_id, r.each_id::uuid, r.each_index'}
  FROM ${isPlain ? `unnest(${columns}) AS r(${columnNames})` : 'ready r'}
  CROSS JOIN LATERAL (SELECT at, at - r.priority * interval '60 s' AS rank_at
    FROM (SELECT coalesce(r.run_at, now() + r.delay_ms * interval '1 ms') AS at) AS d) AS due${isPlain ? '' : parkedSql}
  LEFT JOIN gate ON gate.name = r.queue
  RETURNING id, tenant_id, state, dispatched_at IS NOT NULL AS dispatched
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.' || state FROM job
)
SELECT now() AS created_at, count(*)::integer AS count, string_agg(id::text, ',') FILTER (WHERE dispatched) AS dispatched${
  isPlain
    ? ''
    : `, (SELECT string_agg(id::text, ',') FROM item
    WHERE idempotency_key IS NOT NULL AND id NOT IN (SELECT resource_id FROM keyed)) AS duplicates`
}
FROM job`;

const insertStatements = {
  plain: { name: 'accept-jobs', text: insertSql({ isPlain: true }) },
  full: { name: 'accept-jobs-full', text: insertSql({ isPlain: false }) },
};

/**
 * The statement itself, for one group; also inside a transaction that decides more than that. Jobs that wait for others can only
 * be inserted in a transaction.
 * @param dispatch `later` leaves all of them to the feeder: whoever makes them adds nothing to Redis.
 */
export async function insertJobs(
  db: Queryable,
  jobs: readonly NewJob[],
  dispatch: 'now' | 'later' = 'now',
): Promise<Acceptance[]> {
  if (jobs.some((job) => job.uniqueKey !== undefined))
    throw new TypeError('Jobs with a unique key are inserted by insertAnyJobs.');
  const isPlain = jobs.every(
    (job) =>
      job.idempotency === null &&
      job.newFiles.length === 0 &&
      job.inputFiles.length === 0 &&
      job.scheduleKey === null &&
      job.batchId === null &&
      job.concurrency === undefined &&
      job.workflow === undefined &&
      job.item === undefined &&
      !isDependent(job),
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
  const [row] = rows;
  if (row === undefined) throw new Error('An aggregate gives a row whatever it is made of.');
  const dispatched = toSet(row.dispatched);
  const duplicates = toSet(row.duplicates);
  const written = jobs.filter((job) => !duplicates.has(job.id));
  // What was not written must not be answered as if it were.
  if (written.length !== row.count)
    throw new Error(`${row.count} jobs were written, and not ${written.length} of ${jobs.length}.`);
  const dependent = written.filter(isDependent);
  if (dependent.length > 0) await linkDependencies(db, dependent);
  return jobs.map(({ id }) =>
    duplicates.has(id)
      ? { type: 'duplicate' }
      : { type: 'accepted', createdAt: row.created_at, isDispatched: dispatched.has(id) },
  );
}

function toSet(ids: string | null | undefined): ReadonlySet<string> {
  return new Set(ids?.split(','));
}

function rareColumns(jobs: readonly NewJob[]): string[] {
  return [
    textArray(jobs.map((job) => plainArray(job.inputFiles))),
    jsonArray(jobs.map((job) => job.newFiles)),
    textArray(jobs.map((job) => job.idempotency?.key ?? null)),
    textArray(jobs.map((job) => job.idempotency?.fingerprint ?? null)),
    textArray(jobs.map((job) => job.scheduleKey)),
    textArray(jobs.map((job) => job.concurrency?.key ?? null)),
    plainArray(jobs.map((job) => job.concurrency?.max ?? 'NULL')),
    plainArray(jobs.map((job) => String(isDependent(job)))),
    textArray(jobs.map((job) => job.workflow?.id ?? null)),
    textArray(jobs.map((job) => job.workflow?.step ?? null)),
    textArray(jobs.map((job) => job.batchId)),
    textArray(jobs.map((job) => job.item?.eachId ?? null)),
    plainArray(jobs.map((job) => job.item?.index ?? 'NULL')),
  ];
}

/** The how-manieth of its queue each job is that wants to run at once; NULL for those that come later or have a key. */
function placesOf(jobs: readonly NewJob[]): (number | 'NULL')[] {
  const counts = new Map<string, number>();
  return jobs.map((job) => {
    if (job.delayMs > 0 || job.runAt !== null || job.concurrency !== undefined || isDependent(job))
      return 'NULL';
    const place = (counts.get(job.queue) ?? 0) + 1;
    counts.set(job.queue, place);
    return place;
  });
}

/** A commit whose answer was lost is never guessed: the row tells (faults.md, F4). */
export async function findAccepted(db: Db, job: NewJob, cause: unknown): Promise<Acceptance> {
  try {
    const { rows } = await db.query<{ createdAt: Date; isDispatched: boolean }>(
      'SELECT created_at AS "createdAt", dispatched_at IS NOT NULL AS "isDispatched" FROM jobs WHERE id = $1',
      [job.id],
    );
    if (rows[0] !== undefined) return { type: 'accepted', ...rows[0] };
  } catch (err) {
    if (!isConnectionLost(err)) throw err;
  }
  // Not there now; the server may still be committing it, so its bytes must not be deleted by the caller.
  throw new AmbiguousCommitError(cause);
}
