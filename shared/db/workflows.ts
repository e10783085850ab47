/**
 * Workflows: named steps, each of which is a job. What waits for what is in job_dependencies, and moves on as all jobs that
 * wait do; a workflow itself has no state of its own, it is read from its jobs.
 */
import type { JobError, JobState } from '../domain/job.ts';
import { insertJobs, type NewJob } from './accept-jobs.ts';
import { inTransaction, type Db, type Queryable } from './pool.ts';
import type { QueueDelivery } from './feed-queues.ts';

export interface NewWorkflow {
  readonly id: string;
  readonly tenantId: string;
  readonly traceparent: string | null;
  /** Each after those that it waits for. */
  readonly steps: readonly NewStep[];
  readonly jobs: readonly NewJob[];
  readonly idempotency: { readonly key: string; readonly fingerprint: string } | null;
}

export interface NewStep {
  readonly name: string;
  readonly isOptional: boolean;
  /** Names of all that it waits for. */
  readonly after: readonly string[];
  readonly task: string;
  readonly input: unknown;
  readonly options: unknown;
  readonly forEach: StoredForEach | null;
  readonly jobId: string;
}

/** The list of a step that does something to each of its items, as it was sent, and what was said of it. */
export interface StoredForEach {
  readonly items: unknown;
  /** Null when the step did not say. */
  readonly limit: number | null;
  readonly optionalItems: boolean;
}

export type WorkflowAcceptance =
  | { readonly type: 'accepted'; readonly createdAt: Date; readonly deliveries: readonly QueueDelivery[] }
  /** The idempotency key was there before, and nothing was written. */
  | { readonly type: 'duplicate' };

/** All of it or nothing. @throws what insertJobs throws: a file may have been deleted. */
export function insertWorkflow(db: Db, workflow: NewWorkflow): Promise<WorkflowAcceptance> {
  const { id, tenantId, steps, idempotency } = workflow;
  return inTransaction(db, async (client) => {
    if (idempotency !== null) {
      const { rowCount } = await client.query(
        `INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id)
         VALUES ($1, $2, decode($3, 'hex'), 'workflow', $4) ON CONFLICT DO NOTHING`,
        [tenantId, idempotency.key, idempotency.fingerprint, id],
      );
      if (rowCount === 0) return { type: 'duplicate' };
    }
    const { rows } = await client.query<{ created_at: Date }>(
      'INSERT INTO workflows (id, tenant_id, traceparent) VALUES ($1, $2, $3) RETURNING created_at',
      [id, tenantId, workflow.traceparent],
    );
    await client.query(
      `INSERT INTO workflow_steps (workflow_id, tenant_id, position, name, is_optional, after, task, input, options, for_each, job_id)
       SELECT $1, $2, s.position, s.name, s."isOptional", s.after, s.task, s.input, s.options, s."forEach", s."jobId"
       FROM json_to_recordset($3::json) AS s(position integer, name text, "isOptional" boolean, after text[], task text, input json,
         options jsonb, "forEach" json, "jobId" uuid)`,
      [id, tenantId, JSON.stringify(steps.map((step, position) => ({ ...step, position })))],
    );
    return {
      type: 'accepted',
      // One row was inserted.
      createdAt: rows[0]?.created_at ?? new Date(),
      deliveries: await insertStepJobs(client, workflow.jobs),
    };
  });
}

/** @returns those that may go to Redis at once. */
async function insertStepJobs(client: Queryable, jobs: readonly NewJob[]): Promise<QueueDelivery[]> {
  const acceptances = await insertJobs(client, jobs);
  return jobs.flatMap((job, index) => {
    const acceptance = acceptances[index];
    return acceptance?.type === 'accepted' && acceptance.isDispatched
      ? [{ jobId: job.id, fence: 0, queue: job.queue }]
      : [];
  });
}

export interface WorkflowRow {
  readonly id: string;
  readonly created_at: Date;
  readonly finished_at: Date | null;
  /** Steps in each state; those whose jobs were deleted are in none. */
  readonly counts: Readonly<Record<JobState, number>>;
  readonly total: number;
  readonly open: number;
  /** Those that count for the state of the workflow (workflowStateOf). */
  readonly failed: number;
  readonly cancelled: number;
}

// A step has not ended while one of its items has not: they may outlive it for a moment when it is cancelled.
const hasOpenItemsSql = `s.for_each IS NOT NULL AND EXISTS (
    SELECT FROM jobs i WHERE i.each_id = s.job_id AND i.state IN ('scheduled', 'blocked', 'queued', 'active', 'retrying'))`;

const summarySql = `
SELECT w.id, w.created_at, c.*
FROM workflows w CROSS JOIN LATERAL (
  SELECT count(*) AS total,
    jsonb_build_object('scheduled', count(*) FILTER (WHERE j.state = 'scheduled'), 'blocked', count(*) FILTER (WHERE j.state = 'blocked'),
      'queued', count(*) FILTER (WHERE j.state = 'queued'), 'active', count(*) FILTER (WHERE j.state = 'active'),
      'retrying', count(*) FILTER (WHERE j.state = 'retrying'), 'succeeded', count(*) FILTER (WHERE j.state = 'succeeded'),
      'failed', count(*) FILTER (WHERE j.state = 'failed'), 'cancelled', count(*) FILTER (WHERE j.state = 'cancelled')) AS counts,
    count(*) FILTER (WHERE is_open) AS open,
    count(*) FILTER (WHERE j.state = 'failed' AND NOT s.is_optional) AS failed,
    count(*) FILTER (WHERE j.state = 'cancelled' AND NOT s.is_optional AND j.error->>'code' IS DISTINCT FROM 'parent-failed') AS cancelled,
    CASE WHEN count(*) FILTER (WHERE is_open) = 0 THEN max(j.finished_at) END AS finished_at
  FROM workflow_steps s LEFT JOIN jobs j ON j.id = s.job_id
  CROSS JOIN LATERAL (SELECT j.state NOT IN ('succeeded', 'failed', 'cancelled') OR (${hasOpenItemsSql}) AS is_open) AS o WHERE s.workflow_id = w.id
) c`;

export async function findWorkflow(
  db: Queryable,
  tenantId: string,
  id: string,
): Promise<WorkflowRow | undefined> {
  const { rows } = await db.query<WorkflowRow>(`${summarySql} WHERE w.tenant_id = $1 AND w.id = $2`, [
    tenantId,
    id,
  ]);
  return rows[0];
}

/** Newest first. */
export async function listWorkflows(
  db: Queryable,
  tenantId: string,
  options: { limit: number; before?: string },
): Promise<WorkflowRow[]> {
  const { rows } = await db.query<WorkflowRow>(
    `${summarySql} WHERE w.tenant_id = $1 AND w.id < $2 ORDER BY w.id DESC LIMIT $3`,
    [tenantId, options.before ?? 'ffffffff-ffff-ffff-ffff-ffffffffffff', options.limit],
  );
  return rows;
}

export interface StepRow {
  readonly name: string;
  readonly job_id: string;
  readonly task: string;
  readonly is_optional: boolean;
  readonly after: readonly string[];
  /** Null when the job was deleted. */
  readonly state: JobState | null;
  readonly result: unknown;
  /** The result is there, but was left out of this list. */
  readonly is_result_omitted: boolean;
  readonly error: JobError | null;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
  readonly options: Readonly<Record<string, unknown>>;
  readonly for_each: StoredForEach | null;
  /** Items of the list; null until it is known. */
  readonly items_total: number | null;
  /** Items by the states of their jobs; null without any. */
  readonly items_counts: Readonly<Partial<Record<JobState, number>>> | null;
}

/** In the order of their positions, with results until those come to `resultBytesMax`. */
export async function listSteps(
  db: Queryable,
  workflowId: string,
  resultBytesMax: number,
): Promise<StepRow[]> {
  const { rows } = await db.query<StepRow>(
    `SELECT name, job_id, task, is_optional, after, state, error, started_at, finished_at, options, for_each, items_total, items_counts,
       CASE WHEN bytes_so_far <= $2 THEN result END AS result, coalesce(bytes_so_far > $2 AND result IS NOT NULL, false) AS is_result_omitted
     FROM (
       SELECT s.position, s.name, s.job_id, s.task, s.is_optional, s.after, j.state, j.error, j.started_at, j.finished_at, j.result, s.options, s.for_each,
         r.total AS items_total, CASE WHEN r.total IS NOT NULL THEN (
           SELECT jsonb_object_agg(c.state, c.count) FROM (
             SELECT i.state, count(*) AS count FROM each_items e JOIN jobs i ON i.id = e.job_id WHERE e.each_id = s.job_id GROUP BY i.state) AS c
         ) END AS items_counts,
         sum(octet_length(j.result::text)) OVER (ORDER BY s.position) AS bytes_so_far
       FROM workflow_steps s LEFT JOIN jobs j ON j.id = s.job_id LEFT JOIN each_runs r ON r.job_id = s.job_id WHERE s.workflow_id = $1
     ) AS step ORDER BY position`,
    [workflowId, resultBytesMax],
  );
  return rows;
}

export type CancelWorkflowAnswer =
  | { readonly type: 'missing' }
  /** Every step has ended already. */
  | { readonly type: 'final' }
  | { readonly type: 'cancelled'; readonly ended: readonly string[]; readonly active: readonly string[] };

// What waits ends here, all of it in one statement, so that no step is started by the end of another one; what runs is asked.
const cancelSql = `
WITH target AS MATERIALIZED (
  SELECT j.id, j.state FROM jobs j WHERE j.id IN (SELECT job_id FROM workflow_steps WHERE workflow_id = $1)
    AND j.tenant_id = $2 AND j.state NOT IN ('succeeded', 'failed', 'cancelled')
  ORDER BY j.id FOR NO KEY UPDATE
), ended AS (
  UPDATE jobs j SET state = 'cancelled', fence = j.fence + 1, dispatched_at = NULL, finished_at = now(), cancel_reason = $3,
    cancel_requested_at = now(), expires_at = now() + j.retention_ms * interval '1 ms'
  FROM target t WHERE j.id = t.id AND t.state IN ('scheduled', 'blocked', 'queued', 'retrying')
  RETURNING j.id, j.tenant_id
), asked AS (
  UPDATE jobs j SET cancel_requested_at = coalesce(j.cancel_requested_at, now()), cancel_reason = coalesce(j.cancel_reason, $3)
  FROM target t WHERE j.id = t.id AND t.state = 'active'
), released AS (
  DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id
), ref AS (
  DELETE FROM job_input_refs r USING ended WHERE r.child_id = ended.id
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.cancelled' FROM ended
)
SELECT id, state FROM target`;

export async function cancelWorkflow(
  db: Db,
  tenantId: string,
  id: string,
  reason: string | null,
): Promise<CancelWorkflowAnswer> {
  return inTransaction(db, async (client) => {
    // Not while it is being retried: that gives steps new jobs.
    const { rowCount } = await client.query(
      'SELECT FROM workflows WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE',
      [tenantId, id],
    );
    if (rowCount === 0) return { type: 'missing' };
    const { rows } = await client.query<{ id: string; state: JobState }>(cancelSql, [id, tenantId, reason]);
    if (rows.length === 0) return { type: 'final' };
    return {
      type: 'cancelled',
      ended: rows.filter((row) => row.state !== 'active').map((row) => row.id),
      active: rows.filter((row) => row.state === 'active').map((row) => row.id),
    };
  });
}

/** As they were sent, in the order of their positions. */
export async function listStoredSteps(
  db: Queryable,
  workflowId: string,
): Promise<
  Pick<StoredStep, 'name' | 'is_optional' | 'after' | 'task' | 'options' | 'for_each' | 'job_id'>[]
> {
  const { rows } = await db.query<StoredStep>(
    'SELECT name, is_optional, after, task, options, for_each, job_id FROM workflow_steps WHERE workflow_id = $1 ORDER BY position',
    [workflowId],
  );
  return rows;
}

export interface StoredStep {
  readonly name: string;
  readonly is_optional: boolean;
  readonly after: readonly string[];
  readonly task: string;
  readonly input: unknown;
  readonly options: Readonly<Record<string, unknown>>;
  readonly for_each: StoredForEach | null;
  readonly job_id: string;
  readonly state: JobState | null;
  readonly is_purged: boolean;
  readonly has_open_items: boolean;
}

/**
 * Gives steps new jobs, while nobody else changes the workflow and no job of it can be purged.
 * @param plan says which jobs, from all steps in order; what it throws undoes everything.
 * @returns undefined when there is no such workflow.
 */
export function renewSteps(
  db: Db,
  tenantId: string,
  id: string,
  plan: (
    steps: readonly StoredStep[],
    traceparent: string | null,
  ) => { jobs: readonly NewJob[]; newIds: ReadonlyMap<string, string> },
): Promise<{ deliveries: readonly QueueDelivery[] } | undefined> {
  return inTransaction(db, async (client) => {
    const found = await client.query<{ traceparent: string | null }>(
      'SELECT traceparent FROM workflows WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE',
      [tenantId, id],
    );
    const [workflow] = found.rows;
    if (workflow === undefined) return undefined;
    await client.query(
      `SELECT FROM jobs WHERE id IN (SELECT job_id FROM workflow_steps WHERE workflow_id = $1) ORDER BY id FOR NO KEY UPDATE`,
      [id],
    );
    const { rows } = await client.query<StoredStep>(
      `SELECT s.name, s.is_optional, s.after, s.task, s.input, s.options, s.for_each, s.job_id, j.state,
         j.id IS NULL OR j.purged_at IS NOT NULL AS is_purged, ${hasOpenItemsSql} AS has_open_items
       FROM workflow_steps s LEFT JOIN jobs j ON j.id = s.job_id WHERE s.workflow_id = $1 ORDER BY s.position`,
      [id],
    );
    const { jobs, newIds } = plan(rows, workflow.traceparent);
    await client.query(
      `UPDATE workflow_steps s SET job_id = n.job_id FROM unnest($2::text[], $3::uuid[]) AS n(name, job_id)
       WHERE s.workflow_id = $1 AND s.name = n.name`,
      [id, [...newIds.keys()], [...newIds.values()]],
    );
    return { deliveries: await insertStepJobs(client, jobs) };
  });
}

/** Deletes workflows of which no job is left; looks at each once a day. @returns how many were looked at. */
export async function pruneWorkflows(db: Queryable, limit: number): Promise<number> {
  const { rowCount } = await db.query(
    `WITH due AS MATERIALIZED (
       SELECT w.id, EXISTS (SELECT FROM jobs j WHERE j.workflow_id = w.id) AS has_jobs
       FROM workflows w WHERE w.prune_at < now() ORDER BY w.prune_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
     ), gone AS (
       DELETE FROM workflows w USING due WHERE w.id = due.id AND NOT due.has_jobs
     ), kept AS (
       UPDATE workflows w SET prune_at = now() + interval '1 day' FROM due WHERE w.id = due.id AND due.has_jobs
     )
     SELECT FROM due`,
    [limit],
  );
  return rowCount ?? 0;
}
