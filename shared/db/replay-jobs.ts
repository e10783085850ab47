/**
 * Replaying jobs, many at a time: new jobs with the same task, input and options, in a transaction of the caller's. Who does it
 * page by page moves on in the same transaction, so that there is one new job for each old one.
 */
import type { NewJob } from './accept-jobs.ts';
import type { JobProblem, PageOutcome, ReplayedRow, TaskRules } from './bulk-actions.ts';
import { lockReadyFiles } from './files.ts';
import type { Queryable } from './pool.ts';
import { inputExpired, inputMissing, keyHeld } from './retry-jobs.ts';
import { insertAnyJobs } from './unique-jobs.ts';

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
  const there = await lockParents(
    client,
    tenantId,
    made.flatMap(({ job }) => parentsOf(job)),
  );
  const whole: typeof made = [];
  for (const one of made) {
    const lost = parentsOf(one.job).find((id) => !there.has(id));
    if (!one.job.inputFiles.every((id) => ready.has(id))) errors.push(inputMissing(one.of));
    else if (lost !== undefined) errors.push(parentMissing(one.of, lost));
    else whole.push(one);
  }
  if (whole.length === 0) return { done: 0, errors };
  const acceptances = await insertAnyJobs(
    client,
    whole.map(({ job }) => job),
    'later',
  );
  let done = 0;
  for (const [index, { of }] of whole.entries()) {
    const acceptance = acceptances[index];
    // Debounce: the job that waits has the input of this one now.
    if (acceptance?.type === 'held' && !acceptance.isReplaced) errors.push(keyHeld(of, acceptance.jobId));
    else done += 1;
  }
  return { done, errors, queued: done };
}

function parentsOf(job: NewJob): string[] {
  return (job.dependsOn ?? []).map((edge) => edge.parentId);
}

/** @returns those that are there, and stay until the end of the transaction. */
async function lockParents(
  client: Queryable,
  tenantId: string,
  ids: readonly string[],
): Promise<ReadonlySet<string>> {
  if (ids.length === 0) return new Set();
  const { rows } = await client.query<{ id: string }>(
    'SELECT id FROM jobs WHERE tenant_id = $1 AND id = ANY($2::uuid[]) ORDER BY id FOR KEY SHARE',
    [tenantId, ids],
  );
  return new Set(rows.map((row) => row.id));
}

function parentMissing(jobId: string, parent: string): JobProblem {
  return { jobId, code: 'parent-not-found', message: `There is no job ${parent}, for which it would wait.` };
}
