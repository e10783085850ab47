/**
 * Replaying jobs, many at a time: new jobs with the same task, input and options, in a transaction of the caller's. Who does it
 * page by page moves on in the same transaction, so that there is one new job for each old one. As after a replay of one, the new job has
 * no unique key and waits for no job.
 */
import { insertJobs, type NewJob } from './accept-jobs.ts';
import type { JobProblem, PageOutcome, ReplayedRow, TaskRules } from './bulk-actions.ts';
import { lockReadyFiles } from './files.ts';
import type { Queryable } from './pool.ts';
import { inputExpired, inputMissing } from './retry-jobs.ts';

// Locked against a purge or a delete at the same moment: both take the input away. In the order of their ids.
const readSql = `
SELECT id, tenant_id, task, input, options, priority, tags, attempts_max, retention_ms, purged_at IS NOT NULL AS is_purged
FROM jobs WHERE tenant_id = $1 AND id = ANY($2::uuid[]) ORDER BY id FOR KEY SHARE`;

export async function replayJobs(
  client: Queryable,
  tenantId: string,
  ids: readonly string[],
  makeAgain: TaskRules['makeAgain'],
): Promise<PageOutcome> {
  const { rows } = await client.query<ReplayedRow>(readSql, [tenantId, ids]);
  const errors: JobProblem[] = [];
  const made: { of: string; job: NewJob }[] = [];
  for (const row of rows) {
    const job = row.is_purged ? inputExpired(row.id) : makeAgain(row);
    if ('jobId' in job) errors.push(job);
    else made.push({ of: row.id, job });
  }
  const ready = await lockReadyFiles(
    client,
    tenantId,
    made.flatMap(({ job }) => job.inputFiles),
  );
  const whole = made.filter(({ job }) => job.inputFiles.every((id) => ready.has(id)));
  for (const one of made) if (!whole.includes(one)) errors.push(inputMissing(one.of));
  if (whole.length > 0)
    await insertJobs(
      client,
      whole.map(({ job }) => job),
      'later',
    );
  return { done: whole.length, errors, queued: whole.length };
}
