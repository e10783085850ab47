import type { Queryable } from './pool.ts';

export interface LogLine {
  readonly line: number;
  readonly at: Date;
  readonly message: string;
}

/** Adds lines of one run; a run that no longer owns its job may still say what it was doing. */
export async function appendLogs(
  db: Queryable,
  run: { tenantId: string; jobId: string; fence: number },
  lines: readonly LogLine[],
): Promise<void> {
  await db.query(
    `INSERT INTO job_logs (job_id, fence, line, tenant_id, at, message)
     SELECT $1, $2, l.line, $3, l.at, l.message
     FROM json_to_recordset($4::json) AS l(line integer, at timestamptz, message text)
     WHERE EXISTS (SELECT 1 FROM jobs WHERE id = $1)
     ON CONFLICT DO NOTHING`,
    [run.jobId, run.fence, run.tenantId, JSON.stringify(lines)],
  );
}

/** A page of a job's log, oldest first, after the line `after`. */
export async function listLogs(
  db: Queryable,
  tenantId: string,
  jobId: string,
  options: { limit: number; after?: { fence: number; line: number } },
): Promise<(LogLine & { fence: number })[]> {
  const { rows } = await db.query<LogLine & { fence: number }>(
    `SELECT fence, line, at, message FROM job_logs
     WHERE tenant_id = $1 AND job_id = $2 AND (fence, line) > ($3, $4) ORDER BY fence, line LIMIT $5`,
    [tenantId, jobId, options.after?.fence ?? -1, options.after?.line ?? -1, options.limit],
  );
  return rows;
}
