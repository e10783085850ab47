/**
 * Claiming: the step that turns a delivery into a run. A delivery names a job and a fence; only a row that is
 * `queued` with exactly this fence is taken, and the fence grows by one. Whatever Redis repeats, delays or
 * invents, a delivery that does not match finds nothing, and the worker forgets it.
 */
import { plainArray, textArray } from './array-literal.ts';
import { createGroupCommit, type GroupCommit } from './group-commit.ts';
import type { Db } from './pool.ts';

export interface Delivery {
  readonly jobId: string;
  readonly fence: number;
}

export interface ClaimedJob {
  readonly id: string;
  readonly tenantId: string;
  readonly task: string;
  readonly queue: string;
  /** The fence of this run: every write of the run names it. */
  readonly fence: number;
  /** Who claimed it. */
  readonly workerId: string;
  readonly input: unknown;
  readonly options: JobOptions;
  readonly attemptsUsed: number;
  readonly attemptsMax: number;
  readonly crashes: number;
  readonly createdAt: Date;
  readonly traceparent: string | null;
  readonly batchId: string | null;
  /** The job of the step of which it is an item. */
  readonly eachId: string | null;
  /** Others may wait for room that it takes up. */
  readonly hasKey: boolean;
  readonly files: readonly ClaimedFile[];
}

/** The options of a job that its runs need; all were checked when it was accepted. */
export interface JobOptions {
  readonly timeoutMs?: number;
  readonly softTimeoutMs?: number;
  readonly backoff?: {
    readonly type: 'exponential' | 'fixed';
    readonly delayMs: number;
    readonly maxMs: number;
  };
}

export interface ClaimedFile {
  readonly id: string;
  readonly name: string;
  readonly mediaType: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

/** Resolves to undefined when the delivery is stale, unknown, or for a task that this worker does not know. */
export type ClaimJobs = GroupCommit<Delivery, ClaimedJob | undefined>;

interface Claimer {
  /** Of the worker. */
  readonly id: string;
  /** What it can run. */
  readonly tasks: readonly string[];
  /** Those of them that must never run a second time unnoticed (`onCrash: 'fail'`). Default: none. */
  readonly tasksOnce?: readonly string[];
}

export function createClaimJobs(db: Db, worker: Claimer): ClaimJobs {
  return createGroupCommit<Delivery, ClaimedJob | undefined>({
    flush: (deliveries) => claim(db, worker, deliveries),
    // The row may be active under our name with an answer that never reached us. The lease renewal finds runs
    // that this worker does not know of and hands them back (renewLease), so nothing is guessed here.
    recover: async (_delivery, err) => {
      throw err;
    },
  });
}

// A claim does not wait for the disk: a crash of Postgres within the next half second forgets it together with everything that
// was written after it, and the job is queued again, delivered again, and given the same fence. So what a run writes names
// its worker besides the fence (OwnedRun), and a run whose job is claimed again stops. What must not run twice waits.
// The files of a step are for its items; it needs none itself, and may hold thousands.
const claimSql = `
WITH claimed AS (
  UPDATE jobs j SET state = 'active', fence = j.fence + 1, worker_id = $3, started_at = now(), dispatched_at = NULL, progress = NULL
  FROM unnest($1::uuid[], $2::bigint[]) AS d(id, fence)
  WHERE j.id = d.id AND j.fence = d.fence AND j.state = 'queued' AND j.task = ANY($4)
    AND EXISTS (SELECT 1 FROM workers w WHERE w.id = $3 AND w.reaped_at IS NULL)
    AND NOT j.queue = ANY (ARRAY(SELECT name FROM queues WHERE is_paused)) AND (j.start_before > now()) IS NOT FALSE
  RETURNING j.id, j.tenant_id, j.task, j.queue, j.fence, j.input, j.options, j.attempts_used, j.attempts_max, j.crashes,
    j.created_at, j.traceparent, j.batch_id, j.each_id, j.concurrency_key IS NOT NULL AS has_key
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.active' FROM claimed
), synced AS MATERIALIZED (
  SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM claimed WHERE task = ANY($5)) THEN set_config('synchronous_commit', 'off', true) END
)
SELECT claimed.*, (
  SELECT json_agg(json_build_object('id', f.id, 'name', f.name, 'mediaType', f.media_type, 'sizeBytes', f.size_bytes,
    'sha256', encode(f.sha256, 'hex')))
  FROM job_inputs i JOIN files f ON f.id = i.file_id WHERE i.job_id = claimed.id AND claimed.task <> 'workflow.each') AS files
FROM claimed CROSS JOIN synced`;

// What only a newer worker can run waits 5 s for one, with a new fence and without an attempt used (F53).
const putBackSql = `
WITH moved AS (
  UPDATE jobs j SET state = 'scheduled', fence = j.fence + 1, dispatched_at = NULL, run_at = now() + interval '5 s'
  FROM unnest($1::uuid[], $2::bigint[]) AS d(id, fence)
  WHERE j.id = d.id AND j.fence = d.fence AND j.state = 'queued' AND NOT (j.task = ANY($3))
  RETURNING j.tenant_id, j.id
)
INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.scheduled' FROM moved`;

interface ClaimedRow {
  id: string;
  tenant_id: string;
  task: string;
  queue: string;
  fence: number;
  input: unknown;
  options: JobOptions;
  attempts_used: number;
  attempts_max: number;
  crashes: number;
  created_at: Date;
  traceparent: string | null;
  batch_id: string | null;
  each_id: string | null;
  has_key: boolean;
  files: ClaimedFile[] | null;
}

async function claim(
  db: Db,
  worker: Claimer,
  deliveries: readonly Delivery[],
): Promise<(ClaimedJob | undefined)[]> {
  // In the order of the ids, so that groups of several workers lock rows in the same order.
  const ordered = deliveries.toSorted((a, b) => (a.jobId < b.jobId ? -1 : 1));
  const ids = plainArray(ordered.map((item) => item.jobId));
  const fences = plainArray(ordered.map((item) => item.fence));
  const tasks = textArray(worker.tasks);
  const { rows } = await db.query<ClaimedRow>({
    name: 'claim-jobs',
    text: claimSql,
    values: [ids, fences, worker.id, tasks, textArray(worker.tasksOnce ?? [])],
  });
  // A statement of its own, because almost every group is claimed whole.
  if (rows.length < deliveries.length) {
    await db.query({ name: 'put-back-jobs', text: putBackSql, values: [ids, fences, tasks] });
  }
  const byId = new Map(rows.map((row) => [row.id, row]));
  return deliveries.map((delivery) => {
    const row = byId.get(delivery.jobId);
    if (row === undefined || row.fence !== delivery.fence + 1) return undefined;
    // The same delivery twice in one group: the first one gets the job.
    byId.delete(delivery.jobId);
    return {
      id: row.id,
      tenantId: row.tenant_id,
      task: row.task,
      queue: row.queue,
      fence: row.fence,
      workerId: worker.id,
      input: row.input,
      options: row.options,
      attemptsUsed: row.attempts_used,
      attemptsMax: row.attempts_max,
      crashes: row.crashes,
      createdAt: row.created_at,
      traceparent: row.traceparent,
      batchId: row.batch_id,
      eachId: row.each_id,
      hasKey: row.has_key,
      files: row.files ?? [],
    };
  });
}
