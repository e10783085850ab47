import type { Db } from '#shared/db/pool.ts';
import { isFinal, type JobError, type JobState } from '#shared/domain/job.ts';
import { uuidv7 } from '#shared/ids.ts';

export interface InsertedJob {
  readonly tenantId?: string;
  readonly task?: string;
  readonly queue?: string;
  readonly state?: JobState;
  /** Of an active job. Default: any. */
  readonly workerId?: string;
  readonly input?: unknown;
  readonly tags?: readonly string[];
  readonly error?: JobError;
  readonly createdAt?: Date;
  readonly startedAt?: Date;
  readonly finishedAt?: Date;
}

/** A job's row in any state, without running it. Ids grow from call to call. @returns its id. */
export async function insertJob(db: Db, job: InsertedJob = {}): Promise<string> {
  const {
    tenantId = 'default',
    task = 'test.echo',
    queue = 'host',
    state = 'queued',
    createdAt = new Date(),
  } = job;
  lastMs = Math.max(Date.now(), lastMs + 1);
  const id = uuidv7(lastMs);
  await db.query(
    `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, tags, error, attempts_max, retention_ms, worker_id,
       created_at, started_at, finished_at)
     VALUES ($1, $2, $3, $4, $5::job_state, $11, $11, $6, $7, $8, 3, 86400000, CASE WHEN $5 = 'active' THEN $12::uuid END, $11, $9, $10)`,
    [
      id,
      tenantId,
      task,
      queue,
      state,
      JSON.stringify(job.input ?? {}),
      job.tags ?? [],
      job.error === undefined ? null : JSON.stringify(job.error),
      job.startedAt ?? null,
      isFinal(state) ? (job.finishedAt ?? createdAt) : null,
      createdAt,
      job.workerId ?? uuidv7(),
    ],
  );
  return id;
}

let lastMs = 0;
