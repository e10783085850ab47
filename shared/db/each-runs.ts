/**
 * Steps for every item of a list (migrations/0008-for-each.sql). The step's own job makes the jobs of its items, page by page: one
 * transaction makes those of a page and moves the position on, if the run still owns the job and nobody else has; so a run that
 * dies, and one that was superseded without knowing, leave whole pages only, and no item has two jobs. Then the job is `blocked`.
 *
 * When it goes on is decided by the record: when none of its items is left that has not ended. Any worker may ask at any time;
 * nothing is remembered, so whoever dies between the end of the last item and this is replaced by whoever asks next. The
 * same look ends the items of steps that have ended themselves.
 */
import { crashPoint } from '../crash-point.ts';
import type { JobError, JobState } from '../domain/job.ts';
import { insertJobs, type NewJob } from './accept-jobs.ts';
import { jsonArray, plainArray } from './array-literal.ts';
import { cancelJobs, type Cancelled } from './cancel-jobs.ts';
import { lockFeedingSql } from './feed-queues.ts';
import { lockReadyFiles } from './files.ts';
import { inTransaction, isTransactionRetryable, type Db, type Queryable } from './pool.ts';
import type { OwnedRun } from './workers.ts';

/** How far a step is with its list. */
export interface EachPosition {
  readonly nextIndex: number;
  /** Null until the list was looked at. */
  readonly total: number | null;
}

/** The run lost its job; whoever owns it goes on. */
export class EachSupersededError extends Error {
  override name = 'EachSupersededError';
  constructor() {
    super('The run does not own its job any more.');
  }
}

export interface NewItem {
  readonly index: number;
  readonly job: NewJob;
  /** Why it cannot run: its job fails at once. */
  readonly misfit: JobError | undefined;
}

export interface EachPage extends OwnedRun {
  readonly tenantId: string;
  /** The job of the step before a retry. */
  readonly previous: string | null;
  readonly total: number;
  /** Those after the position, in order. */
  readonly items: readonly NewItem[];
}

const triesMax = 3;
const openStates = `('scheduled', 'blocked', 'queued', 'active', 'retrying')`;
const hasOpenItemsSql = (eachId: string) =>
  `EXISTS (SELECT FROM jobs i WHERE i.each_id = ${eachId} AND i.state IN ${openStates})`;

/** Finds the position of the step, or makes it. */
export async function openEachRun(db: Db, tenantId: string, jobId: string): Promise<EachPosition> {
  await db.query({
    name: 'open-each-run',
    text: `INSERT INTO each_runs (job_id, tenant_id) SELECT id, tenant_id FROM jobs WHERE id = $1 AND tenant_id = $2 ON CONFLICT DO NOTHING`,
    values: [jobId, tenantId],
  });
  const { rows } = await db.query<PositionRow>({
    name: 'find-each-run',
    text: 'SELECT next_index, total FROM each_runs WHERE tenant_id = $1 AND job_id = $2',
    values: [tenantId, jobId],
  });
  return toPosition(rows[0]);
}

/** Bytes of the inputs of all items that have their jobs, as JSON. */
export async function sumItemInputs(db: Queryable, tenantId: string, jobId: string): Promise<number> {
  const { rows } = await db.query<{ bytes: number }>({
    name: 'each-input-bytes',
    text: `SELECT coalesce(sum(octet_length(j.input::text)), 0)::bigint AS bytes
      FROM each_items i JOIN jobs j ON j.tenant_id = i.tenant_id AND j.id = i.job_id WHERE i.tenant_id = $1 AND i.each_id = $2`,
    values: [tenantId, jobId],
  });
  return rows[0]?.bytes ?? 0;
}

/**
 * Makes the jobs of one page, after `from`.
 * @returns how far the step is then, also when another run has moved it on.
 * @throws EachSupersededError when this run does not own the job any more.
 */
export async function makeItems(db: Db, page: EachPage, from: EachPosition): Promise<EachPosition> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await inTransaction(db, (client) => makePage(client, page, from));
    } catch (err) {
      if (!isTransactionRetryable(err) || tries === triesMax) throw err;
    }
  }
}

async function makePage(client: Queryable, page: EachPage, from: EachPosition): Promise<EachPosition> {
  const { tenantId, jobId, items, total } = page;
  const current = await lockPosition(client, page);
  if (current.nextIndex !== from.nextIndex || current.total !== from.total) return current;
  const kept = await keepSucceeded(client, page);
  const wanted = items.filter((item) => !kept.has(item.index));
  const files = await lockReadyFiles(
    client,
    tenantId,
    wanted.flatMap((item) => item.job.inputFiles),
  );
  const made = wanted.map((item) => withFiles(item, files));
  await insertJobs(
    client,
    made.map((item) => item.job),
    'later',
  );
  await failMisfits(client, made);
  await client.query({
    name: 'insert-each-items',
    text: `INSERT INTO each_items (each_id, index, tenant_id, job_id)
      SELECT $1, i.index, $2, i.job_id FROM unnest($3::integer[], $4::uuid[]) AS i(index, job_id)`,
    values: [
      jobId,
      tenantId,
      plainArray(items.map((item) => item.index)),
      plainArray(items.map((item) => kept.get(item.index) ?? item.job.id)),
    ],
  });
  // Until the commit nobody can end the run and say so.
  const { rowCount } = await client.query({
    name: 'hold-each-run',
    text: `SELECT 1 FROM jobs WHERE tenant_id = $1 AND id = $2 AND fence = $3 AND worker_id = $4 AND state = 'active' FOR SHARE`,
    values: [tenantId, jobId, page.fence, page.workerId],
  });
  if (rowCount === 0) throw new EachSupersededError();
  const at: EachPosition = { nextIndex: from.nextIndex + items.length, total };
  await client.query({
    name: 'move-each-run',
    text: 'UPDATE each_runs SET next_index = $3, total = $4 WHERE tenant_id = $1 AND job_id = $2',
    values: [tenantId, jobId, at.nextIndex, total],
  });
  crashPoint('each.before-commit');
  return at;
}

interface PositionRow {
  next_index: number;
  total: number | null;
}

/** The row of the step, for this run alone until the transaction ends, if the job is still this run's. */
async function lockPosition(
  client: Queryable,
  { tenantId, jobId, fence, workerId }: EachPage,
): Promise<EachPosition> {
  const { rows } = await client.query<PositionRow>({
    name: 'lock-each-run',
    text: `SELECT r.next_index, r.total FROM each_runs r WHERE r.tenant_id = $1 AND r.job_id = $2 AND EXISTS (
        SELECT 1 FROM jobs j WHERE j.tenant_id = $1 AND j.id = $2 AND j.fence = $3 AND j.worker_id = $4 AND j.state = 'active')
      FOR UPDATE OF r`,
    values: [tenantId, jobId, fence, workerId],
  });
  return toPosition(rows[0]);
}

function toPosition(row: PositionRow | undefined): EachPosition {
  if (row === undefined) throw new EachSupersededError();
  return { nextIndex: row.next_index, total: row.total };
}

// A step may have been retried several times, and cancelled before it had come to all of its items: all of its jobs are looked at, the
// latest first. A job is kept only for the very input with which it succeeded.
const keepSql = `
WITH RECURSIVE earlier AS (
  SELECT j.id, j.input, 1 AS age FROM jobs j WHERE j.tenant_id = $1 AND j.id = $2 AND j.task = 'workflow.each'
  UNION ALL
  SELECT j.id, j.input, e.age + 1 FROM earlier e JOIN jobs j ON j.tenant_id = $1 AND j.id = (e.input->>'previous')::uuid
    AND j.task = 'workflow.each' WHERE e.age < 100
), found AS MATERIALIZED (
  SELECT DISTINCT ON (w.index) w.index, j.id FROM unnest($3::integer[], $4::json[]) AS w(index, input)
  CROSS JOIN earlier e JOIN each_items i ON i.each_id = e.id AND i.index = w.index
  JOIN jobs j ON j.tenant_id = $1 AND j.id = i.job_id AND j.task = $5
  WHERE j.state = 'succeeded' AND j.purged_at IS NULL AND j.input::jsonb = w.input::jsonb
  ORDER BY w.index, e.age
)
SELECT f.index, j.id FROM found f JOIN jobs j ON j.id = f.id WHERE j.state = 'succeeded' AND j.purged_at IS NULL
ORDER BY j.id FOR SHARE OF j`;

/** @returns for items that have succeeded before a retry: their jobs, which nobody can delete or purge until the commit. */
async function keepSucceeded(client: Queryable, page: EachPage): Promise<ReadonlyMap<number, string>> {
  const [first] = page.items;
  if (page.previous === null || first === undefined) return new Map();
  const { rows } = await client.query<{ index: number; id: string }>({
    name: 'keep-each-items',
    text: keepSql,
    values: [
      page.tenantId,
      page.previous,
      plainArray(page.items.map((item) => item.index)),
      jsonArray(page.items.map((item) => item.job.input)),
      first.job.task,
    ],
  });
  return new Map(rows.map((row) => [row.index, row.id]));
}

/** A job refers only to files that there are, and one that cannot run to none. */
function withFiles(item: NewItem, ready: ReadonlySet<string>): NewItem {
  const missing = item.job.inputFiles.find((id) => !ready.has(id));
  const misfit: JobError | undefined =
    item.misfit ??
    (missing === undefined
      ? undefined
      : { code: 'input-missing', message: `There is no file ${missing}.`, retryable: false });
  return misfit === undefined ? item : { ...item, misfit, job: { ...item.job, inputFiles: [] } };
}

async function failMisfits(client: Queryable, items: readonly NewItem[]): Promise<void> {
  const misfits = items.filter((item) => item.misfit !== undefined);
  if (misfits.length === 0) return;
  await client.query({
    name: 'fail-each-items',
    text: `WITH ended AS (
        UPDATE jobs j SET state = 'failed', fence = j.fence + 1, dispatched_at = NULL, finished_at = now(),
          expires_at = now() + j.retention_ms * interval '1 ms', error = m.error
        FROM unnest($1::uuid[], $2::jsonb[]) AS m(id, error) WHERE j.id = m.id AND j.state IN ('queued', 'scheduled')
        RETURNING j.id, j.tenant_id, j.error
      )
      INSERT INTO events (tenant_id, job_id, type, data)
      SELECT tenant_id, id, 'job.failed', jsonb_build_object('error', error) FROM ended`,
    values: [plainArray(misfits.map((item) => item.job.id)), jsonArray(misfits.map((item) => item.misfit))],
  });
}

export interface EndedItems {
  /** Some have not ended: nothing else is known. */
  readonly isOpen: boolean;
  readonly unsuccessful: number;
  /** The first of those that did not succeed. */
  readonly first:
    | {
        readonly index: number;
        readonly jobId: string;
        readonly state: JobState | null;
        readonly error: JobError | null;
      }
    | undefined;
  /** Of all results together, as JSON. */
  readonly resultBytes: number;
}

/** What became of the items of a step. */
export async function lookAtItems(db: Queryable, tenantId: string, jobId: string): Promise<EndedItems> {
  const open = await db.query<{ is_open: boolean }>({
    name: 'each-has-open',
    text: `SELECT ${hasOpenItemsSql('$1')} AS is_open`,
    values: [jobId],
  });
  if (open.rows[0]?.is_open === true)
    return { isOpen: true, unsuccessful: 0, first: undefined, resultBytes: 0 };
  const { rows } = await db.query<{ unsuccessful: number; result_bytes: number }>({
    name: 'each-sums',
    text: `SELECT count(*) FILTER (WHERE j.state IS DISTINCT FROM 'succeeded' OR j.purged_at IS NOT NULL) AS unsuccessful,
        coalesce(sum(coalesce(octet_length(j.result::text), 4) + 1), 0)::bigint AS result_bytes
      FROM each_items i LEFT JOIN jobs j ON j.tenant_id = i.tenant_id AND j.id = i.job_id WHERE i.tenant_id = $1 AND i.each_id = $2`,
    values: [tenantId, jobId],
  });
  const { unsuccessful = 0, result_bytes: resultBytes = 0 } = rows[0] ?? {};
  const first = unsuccessful === 0 ? undefined : await findUnsuccessful(db, tenantId, jobId);
  return { isOpen: false, unsuccessful, first, resultBytes };
}

async function findUnsuccessful(
  db: Queryable,
  tenantId: string,
  jobId: string,
): Promise<EndedItems['first']> {
  const { rows } = await db.query<{
    index: number;
    job_id: string;
    state: JobState | null;
    error: JobError | null;
  }>({
    name: 'each-first-unsuccessful',
    text: `SELECT i.index, i.job_id, j.state, j.error
      FROM each_items i LEFT JOIN jobs j ON j.tenant_id = i.tenant_id AND j.id = i.job_id
      WHERE i.tenant_id = $1 AND i.each_id = $2 AND (j.state IS DISTINCT FROM 'succeeded' OR j.purged_at IS NOT NULL)
      ORDER BY i.index LIMIT 1`,
    values: [tenantId, jobId],
  });
  const [row] = rows;
  return row && { index: row.index, jobId: row.job_id, state: row.state, error: row.error };
}

/** In the order of the list; null for items that did not succeed. */
export async function readItemResults(db: Queryable, tenantId: string, jobId: string): Promise<unknown[]> {
  const { rows } = await db.query<{ result: unknown }>({
    name: 'each-results',
    text: `SELECT CASE WHEN j.state = 'succeeded' THEN j.result END AS result
      FROM each_items i LEFT JOIN jobs j ON j.tenant_id = i.tenant_id AND j.id = i.job_id
      WHERE i.tenant_id = $1 AND i.each_id = $2 ORDER BY i.index`,
    values: [tenantId, jobId],
  });
  return rows.map((row) => row.result ?? null);
}

export interface EachLook extends Cancelled {
  /** Steps that were looked at, by id; the last is the place to go on from. */
  readonly lookedAt: readonly string[];
  /** Steps whose items have all ended, and which go on. */
  readonly resumed: readonly string[];
}

/** Items of steps that have ended, cancelled at a time. */
const cancelMax = 500;

// Locked by whoever is first, skipped by the others. A job that was never blocked for its items is not touched: it has no row here, or
// is not `blocked`. Ids as arrays: joined in any other way, the planner reads all jobs while it knows nothing of the steps.
const lookSql = (which: string) => `
WITH candidate AS MATERIALIZED (
  SELECT r.job_id FROM each_runs r WHERE NOT r.is_over AND ${which}
), ready AS (
  SELECT j.id FROM jobs j WHERE j.id = ANY (ARRAY(SELECT job_id FROM candidate)) AND j.state = 'blocked'
    AND NOT ${hasOpenItemsSql('j.id')} ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED
), resumed AS (
  UPDATE jobs j SET state = 'queued', run_at = now(), rank_at = now() - j.priority * interval '60 s'
  WHERE j.id = ANY (ARRAY(SELECT id FROM ready)) AND j.state = 'blocked' RETURNING j.id, j.tenant_id
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.queued' FROM resumed
)
SELECT j.id AS job_id, r.id IS NOT NULL AS is_resumed, j.tenant_id, j.state IN ('succeeded', 'failed', 'cancelled') AS is_final
FROM jobs j LEFT JOIN resumed r ON r.id = j.id WHERE j.id = ANY (ARRAY(SELECT job_id FROM candidate)) ORDER BY j.id`;

const someSql = lookSql('r.job_id = ANY($1::uuid[])');
const nextSql = lookSql('r.job_id > $1 ORDER BY r.job_id LIMIT $2');

/** Looks at these steps. */
export function lookAtSteps(db: Db, ids: readonly string[]): Promise<EachLook> {
  return look(db, { name: 'look-at-steps', text: someSql, values: [ids] });
}

/** Looks at the next `limit` steps that are not over, by id. */
export function lookAtNextSteps(db: Db, after: string, limit: number): Promise<EachLook> {
  return look(db, { name: 'look-at-next-steps', text: nextSql, values: [after, limit] });
}

async function look(db: Db, query: { name: string; text: string; values: unknown[] }): Promise<EachLook> {
  const { rows } = await db.query<{
    job_id: string;
    is_resumed: boolean;
    tenant_id: string;
    is_final: boolean;
  }>(query);
  const ended: string[] = [];
  const asked: string[] = [];
  for (const row of rows.filter(({ is_final }) => is_final)) {
    const cancelled = await endItems(db, row.tenant_id, row.job_id);
    ended.push(...cancelled.ended);
    asked.push(...cancelled.asked);
  }
  return {
    lookedAt: rows.map((row) => row.job_id),
    resumed: rows.filter((row) => row.is_resumed).map((row) => row.job_id),
    ended,
    asked,
  };
}

/** Cancels some of what is left of the items of a step that has ended, until nothing is. */
async function endItems(db: Db, tenantId: string, jobId: string): Promise<Cancelled> {
  try {
    return await inTransaction(db, async (client) => {
      const { rows } = await client.query<{ id: string; queue: string }>({
        name: 'list-open-items',
        text: `SELECT i.id, i.queue FROM jobs i WHERE i.each_id = $1 AND i.tenant_id = $2 AND i.state IN ${openStates}
          AND (i.state <> 'active' OR i.cancel_requested_at IS NULL) LIMIT ${cancelMax}`,
        values: [jobId, tenantId],
      });
      if (rows.length === 0) {
        // Those that run and were asked to stop are looked at again.
        await client.query({
          name: 'close-each-run',
          text: `UPDATE each_runs r SET is_over = true WHERE r.job_id = $1 AND NOT ${hasOpenItemsSql('r.job_id')}`,
          values: [jobId],
        });
        return { ended: [], asked: [] };
      }
      // A feeder marks rows in another order than that of their ids: taking turns with it, neither can deadlock.
      for (const queue of new Set(rows.map((row) => row.queue).toSorted()))
        await client.query(lockFeedingSql, [queue]);
      return cancelJobs(
        client,
        tenantId,
        rows.map((row) => row.id),
        'Its step has ended.',
      );
    });
  } catch (err) {
    // The next look does it.
    if (isTransactionRetryable(err)) return { ended: [], asked: [] };
    throw err;
  }
}
