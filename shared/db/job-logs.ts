import { unsynced, type Queryable } from './pool.ts';
import type { OwnedRun } from './workers.ts';

export interface LogLine {
  readonly line: number;
  readonly at: Date;
  readonly message: string;
}

/**
 * Adds lines of one run; a run that no longer owns its job may still say what it was doing. One whose claim Postgres forgot may not:
 * its lines would be kept in the place of those of the run that was given the same fence.
 */
export async function appendLogs(
  db: Queryable,
  run: OwnedRun & { tenantId: string },
  lines: readonly LogLine[],
): Promise<void> {
  await db.query(
    `WITH ${unsynced}
     INSERT INTO job_logs (job_id, fence, line, tenant_id, at, message)
     SELECT $1, $2, l.line, $3, l.at, l.message
     FROM unsynced CROSS JOIN json_to_recordset($4::json) AS l(line integer, at timestamptz, message text)
     WHERE EXISTS (SELECT 1 FROM jobs WHERE id = $1 AND (fence > $2 OR (fence = $2 AND coalesce(worker_id = $5, true))))
     ON CONFLICT DO NOTHING`,
    [run.jobId, run.fence, run.tenantId, JSON.stringify(lines), run.workerId],
  );
}

export interface JobLogRow extends LogLine {
  readonly fence: number;
  /** Counted over the attempts of the job, from 1. */
  readonly attempt: number;
}

/** A page of a job's log, oldest first, after the line `after`. */
export async function listLogs(
  db: Queryable,
  tenantId: string,
  jobId: string,
  options: { limit: number; after?: { fence: number; line: number } },
): Promise<JobLogRow[]> {
  const { rows } = await db.query<JobLogRow>(
    `SELECT l.fence, l.line, l.at, l.message,
       1 + (SELECT count(*) FROM attempts a WHERE a.tenant_id = $1 AND a.job_id = $2 AND a.fence < l.fence) AS attempt
     FROM job_logs l
     WHERE l.tenant_id = $1 AND l.job_id = $2 AND (l.fence, l.line) > ($3, $4) ORDER BY l.fence, l.line LIMIT $5`,
    [tenantId, jobId, options.after?.fence ?? -1, options.after?.line ?? -1, options.limit],
  );
  return rows;
}
