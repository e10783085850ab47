/** Reading and cancelling jobs on behalf of a client: every statement filters by tenant. */
import type { FinalJobState, JobError, JobState } from '../domain/job.ts';
import { byIndex } from './by-index.ts';
import { unsynced, type Db, type Queryable } from './pool.ts';
import type { OwnedRun } from './workers.ts';

export interface JobRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly task: string;
  readonly queue: string;
  readonly state: JobState;
  readonly fence: number;
  readonly priority: number;
  readonly run_at: Date;
  readonly input: unknown;
  readonly options: Readonly<Record<string, unknown>>;
  readonly tags: readonly string[];
  readonly result: unknown;
  readonly error: JobError | null;
  readonly progress: { percent: number; message: string | null } | null;
  readonly attempts_max: number;
  readonly schedule_key: string | null;
  readonly batch_id: string | null;
  readonly workflow_id: string | null;
  readonly workflow_step: string | null;
  /** Of a step for each item of a list: which item it is for. */
  readonly each_index: number | null;
  readonly worker_id: string | null;
  readonly cancel_requested_at: Date | null;
  readonly cancel_reason: string | null;
  readonly created_at: Date;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
  readonly expires_at: Date | null;
  readonly purged_at: Date | null;
  readonly start_before: Date | null;
  readonly retention_ms: number;
}

export interface AttemptRow {
  readonly worker_id: string;
  readonly started_at: Date;
  readonly finished_at: Date;
  readonly outcome: string;
  readonly error: JobError | null;
}

const columns = `id, tenant_id, task, queue, state, fence, priority, run_at, input, options, tags, result, error, progress, attempts_max,
  schedule_key, batch_id, workflow_id, workflow_step, each_index, worker_id, cancel_requested_at, cancel_reason, created_at, started_at, finished_at, expires_at, purged_at, start_before, retention_ms`;

export async function findJob(db: Queryable, tenantId: string, id: string): Promise<JobRow | undefined> {
  const { rows } = await db.query<JobRow>({
    name: 'find-job',
    text: `SELECT ${columns} FROM jobs WHERE tenant_id = $1 AND id = $2`,
    values: [tenantId, id],
  });
  return rows[0];
}

/** Those of the jobs that there are, in any order. */
export async function findJobs(
  db: Queryable,
  jobs: readonly { readonly tenantId: string; readonly id: string }[],
): Promise<JobRow[]> {
  const { rows } = await db.query<JobRow>({
    name: 'find-jobs',
    text: `SELECT ${columns} FROM unnest($1::text[], $2::uuid[]) AS wanted(of_tenant, of_id)
           JOIN jobs ON tenant_id = of_tenant AND id = of_id`,
    values: [jobs.map((job) => job.tenantId), jobs.map((job) => job.id)],
  });
  return rows;
}

/** The id of the tenant's first job that there still is. */
export async function findOldestJob(db: Queryable, tenantId: string): Promise<string | undefined> {
  const { rows } = await db.query<{ id: string }>(
    'SELECT id FROM jobs WHERE tenant_id = $1 ORDER BY id LIMIT 1',
    [tenantId],
  );
  return rows[0]?.id;
}

/** Ended attempts, oldest first; at most the latest 100 (snoozes can make any number). */
export async function listAttempts(db: Queryable, tenantId: string, jobId: string): Promise<AttemptRow[]> {
  const { rows } = await db.query<AttemptRow>({
    name: 'list-attempts',
    text: `SELECT worker_id, started_at, finished_at, outcome, error FROM (
             SELECT * FROM attempts WHERE tenant_id = $1 AND job_id = $2 ORDER BY fence DESC LIMIT 100) a ORDER BY fence`,
    values: [tenantId, jobId],
  });
  return rows;
}

/** Which of these jobs have ended: the floor under `?wait=` when no wake-up arrives. */
export async function listFinal(db: Queryable, ids: readonly string[]): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    `SELECT id FROM jobs WHERE id = ANY($1) AND state IN ('succeeded', 'failed', 'cancelled')`,
    [ids],
  );
  return rows.map((row) => row.id);
}

export type CancelAnswer =
  | { readonly type: 'cancelled' }
  /** It runs: its worker was asked, and writes the end. */
  | { readonly type: 'requested' }
  | { readonly type: 'final'; readonly state: FinalJobState }
  | { readonly type: 'missing' };

// One statement decides, whatever happens at the same moment: a job that is not active ends here and its fence
// grows, so that a delivery on its way finds nothing; an active one is marked, for its owner or the reaper. Of one that
// goes back at the same moment Postgres first checks the constraints of the row as the snapshot has it, with its worker.
const cancelSql = `
WITH target AS (
  SELECT id, state FROM jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE
), ended AS (
  UPDATE jobs j SET state = 'cancelled', fence = j.fence + 1, worker_id = NULL, dispatched_at = NULL, finished_at = now(),
    cancel_reason = $3, cancel_requested_at = now(), expires_at = now() + j.retention_ms * interval '1 ms'
  FROM target t WHERE j.id = t.id AND t.state IN ('scheduled', 'blocked', 'queued', 'retrying')
  RETURNING j.id, j.tenant_id
), asked AS (
  UPDATE jobs j SET cancel_requested_at = coalesce(j.cancel_requested_at, now()), cancel_reason = coalesce(j.cancel_reason, $3)
  FROM target t WHERE j.id = t.id AND t.state = 'active'
), released AS (
  DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.cancelled' FROM ended
)
SELECT state FROM target`;

export async function cancelJob(
  db: Db,
  tenantId: string,
  id: string,
  reason: string | null,
): Promise<CancelAnswer> {
  const { rows } = await db.query<{ state: JobState }>(cancelSql, [tenantId, id, reason]);
  const state = rows[0]?.state;
  if (state === undefined) return { type: 'missing' };
  if (state === 'active') return { type: 'requested' };
  if (state === 'succeeded' || state === 'failed' || state === 'cancelled') return { type: 'final', state };
  return { type: 'cancelled' };
}

/** Jobs that wait, over all tenants, counted up to `limit`: the backlog limit needs no more. */
export function countWaiting(db: Db, limit: number): Promise<number> {
  return byIndex(db, async (client) => {
    const { rows } = await client.query<{ count: number }>(
      `SELECT count(*) AS count FROM (SELECT 1 FROM jobs WHERE state = 'queued' AND dispatched_at IS NULL LIMIT $1) AS waiting`,
      [limit],
    );
    return rows[0]?.count ?? 0;
  });
}

/** Coalesced progress of running jobs; only the run that owns a job may write it. */
export async function saveProgress(
  db: Queryable,
  items: readonly (OwnedRun & { percent: number; message: string | null })[],
): Promise<void> {
  await db.query(
    `WITH ${unsynced}
     UPDATE jobs j SET progress = jsonb_build_object('percent', p.percent, 'message', p.message)
     FROM unsynced CROSS JOIN json_to_recordset($1::json) AS p("jobId" uuid, "fence" bigint, "workerId" uuid, "percent" float8, "message" text)
     WHERE j.id = p."jobId" AND j.fence = p.fence AND j.worker_id = p."workerId" AND (j.state = 'active') IS TRUE`,
    [JSON.stringify(items)],
  );
}

/**
 * One of the jobs, of any tenant, that somebody has something to do for now: waiting for a worker, running, or due; or about to be let
 * go by a keeper, because the batch or the items that it waited for have ended.
 */
export async function findOpenJob(
  db: Queryable,
): Promise<{ readonly id: string; readonly task: string; readonly state: JobState } | undefined> {
  const { rows } = await db.query<{ id: string; task: string; state: JobState }>(
    `SELECT id, task, state FROM jobs
     WHERE state IN ('queued', 'active') OR (state IN ('scheduled', 'retrying') AND run_at <= now())
       OR (state = 'blocked' AND (
         EXISTS (SELECT FROM each_runs r WHERE r.job_id = jobs.id AND NOT r.is_over AND NOT EXISTS (
           SELECT FROM jobs i WHERE i.each_id = r.job_id AND i.state IN ('scheduled', 'blocked', 'queued', 'active', 'retrying')))
         OR EXISTS (SELECT FROM batches b WHERE b.on_complete_job_id = jobs.id AND b.completed_at IS NULL AND NOT EXISTS (
           SELECT FROM jobs i WHERE i.batch_id = b.id AND i.state IN ('scheduled', 'blocked', 'queued', 'active', 'retrying')))))
     LIMIT 1`,
  );
  return rows[0];
}
