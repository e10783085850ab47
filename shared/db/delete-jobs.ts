/** Deleting jobs that have ended, many at a time: what `deleteJob` does to one. */
import type { JobProblem, PageOutcome } from './bulk-actions.ts';
import type { Queryable } from './pool.ts';

/**
 * Deletes those of the jobs that have ended, in a transaction of the caller's. Their files are locked before anybody is asked
 * whether they are in use: who wants to refer to one now waits, and finds it gone.
 */
export async function deleteJobs(
  client: Queryable,
  tenantId: string,
  ids: readonly string[],
): Promise<PageOutcome> {
  const { rows } = await client.query<{ id: string }>(
    `SELECT id FROM jobs WHERE tenant_id = $1 AND id = ANY($2::uuid[]) AND state IN ('succeeded', 'failed', 'cancelled')
     ORDER BY id FOR UPDATE`,
    [tenantId, ids],
  );
  // Nobody can begin to wait for them while their rows are locked. Items belong to their step, and a step to its items, until both have ended.
  const waited = await client.query<{ parent_id: string }>(
    `SELECT DISTINCT d.parent_id FROM job_dependencies d JOIN jobs c ON c.id = d.child_id
     WHERE d.tenant_id = $1 AND d.parent_id = ANY($2::uuid[]) AND c.state NOT IN ('succeeded', 'failed', 'cancelled')
     UNION
     SELECT e.job_id FROM each_items e JOIN jobs s ON s.id = e.each_id
     WHERE e.tenant_id = $1 AND e.job_id = ANY($2::uuid[]) AND s.state NOT IN ('succeeded', 'failed', 'cancelled')
     UNION
     SELECT i.each_id FROM jobs i WHERE i.tenant_id = $1 AND i.each_id = ANY($2::uuid[])
       AND i.state IN ('scheduled', 'blocked', 'queued', 'active', 'retrying')`,
    [tenantId, rows.map((row) => row.id)],
  );
  const awaited = new Set(waited.rows.map((row) => row.parent_id));
  const final = rows.map((row) => row.id).filter((id) => !awaited.has(id));
  await client.query(
    'SELECT 1 FROM files WHERE tenant_id = $1 AND job_id = ANY($2::uuid[]) ORDER BY id FOR UPDATE',
    [tenantId, final],
  );
  const inUse = await client.query<{ job_id: string }>(
    `SELECT DISTINCT f.job_id FROM files f WHERE f.tenant_id = $1 AND f.job_id = ANY($2::uuid[]) AND (
       EXISTS (SELECT 1 FROM job_inputs i WHERE i.tenant_id = f.tenant_id AND i.file_id = f.id)
       OR EXISTS (SELECT 1 FROM schedule_files s WHERE s.tenant_id = f.tenant_id AND s.file_id = f.id))`,
    [tenantId, final],
  );
  const kept = new Set(inUse.rows.map((row) => row.job_id));
  const gone = final.filter((id) => !kept.has(id));
  const files = await client.query<{ id: string }>(
    'DELETE FROM files WHERE tenant_id = $1 AND job_id = ANY($2::uuid[]) RETURNING id',
    [tenantId, gone],
  );
  await client.query('DELETE FROM events WHERE tenant_id = $1 AND job_id = ANY($2::uuid[])', [
    tenantId,
    gone,
  ]);
  // Attempts, logs and effects go with it.
  await client.query('DELETE FROM jobs WHERE tenant_id = $1 AND id = ANY($2::uuid[])', [tenantId, gone]);
  return {
    done: gone.length,
    errors: [...[...awaited].toSorted().map(isAwaited), ...[...kept].toSorted().map(fileInUse)],
    fileIds: files.rows.map((row) => row.id),
  };
}

function isAwaited(jobId: string): JobProblem {
  return {
    jobId,
    code: 'job-in-use',
    message:
      'Another job, which has not ended, waits for it, or has waited and may take something from its result.',
  };
}

function fileInUse(jobId: string): JobProblem {
  return {
    jobId,
    code: 'file-in-use',
    message: 'A schedule, or a job that has not ended, takes a file of it as input.',
  };
}
