/** Retrying failed jobs by hand, many at a time: what `retryJob` does to one. */
import type { Queryable } from './pool.ts';
import { lockReadyFiles } from './files.ts';
import { releaseJob } from './dependencies.ts';
import { resetSql, waitsSql } from './retry-job.ts';
import { takeKeysBack } from './unique-jobs.ts';
import { toUniqueKey, type UniqueKeyOption } from '../domain/unique-key.ts';
import type { PageOutcome, JobProblem } from './bulk-actions.ts';

const lockSql = `
SELECT id, task, input, options->'uniqueKey' AS unique_key, purged_at IS NOT NULL AS is_purged, ${waitsSql} AS waits FROM jobs
WHERE tenant_id = $1 AND id = ANY($2::uuid[]) AND state = 'failed' ORDER BY id FOR UPDATE`;

const retrySql = `
WITH retried AS (
  UPDATE jobs j SET ${resetSql('wanted.waits')}
  FROM unnest($2::uuid[], $5::boolean[]) AS wanted(id, waits) WHERE j.tenant_id = $1 AND j.id = wanted.id AND j.state = 'failed' AND j.purged_at IS NULL
  RETURNING j.id, j.tenant_id, j.state
), reference AS (
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT r.id, f.file_id, r.tenant_id FROM retried r JOIN unnest($3::uuid[], $4::uuid[]) AS f(job_id, file_id) ON f.job_id = r.id
), event AS (
  INSERT INTO events (tenant_id, job_id, type, data) SELECT tenant_id, id, 'job.' || state, '{"retry": true}' FROM retried
)
SELECT id FROM retried`;

/**
 * Queues those of the jobs again that have failed, in a transaction of the caller's. The rows are locked first, and then the files of
 * their inputs, so nothing is deleted in between. Of several with one unique key the first gets it back.
 * @param findFiles ids of the files that an input refers to; undefined when there is no such task.
 */
export async function retryJobs(
  client: Queryable,
  tenantId: string,
  ids: readonly string[],
  findFiles: (task: string, input: unknown) => readonly string[] | undefined,
): Promise<PageOutcome> {
  const { rows } = await client.query<FailedRow>(lockSql, [tenantId, ids]);
  const errors: JobProblem[] = [];
  const wanted: { id: string; row: FailedRow; files: readonly string[] }[] = [];
  for (const row of rows) {
    const files = row.is_purged ? [] : findFiles(row.task, row.input);
    if (row.is_purged) errors.push(inputExpired(row.id));
    else if (files === undefined) errors.push(unknownTask(row.id, row.task));
    else wanted.push({ id: row.id, row, files });
  }
  const ready = await lockReadyFiles(
    client,
    tenantId,
    wanted.flatMap((job) => job.files),
  );
  const whole = wanted.filter((job) => job.files.every((id) => ready.has(id)));
  for (const job of wanted) if (!whole.includes(job)) errors.push(inputMissing(job.id));
  const keyed = whole.flatMap(({ id, row: { task, unique_key: key } }) =>
    key === null ? [] : [{ id, tenantId, task, uniqueKey: toUniqueKey(key) }],
  );
  const held = await takeKeysBack(client, keyed);
  for (const [id, holder] of held) errors.push(keyHeld(id, holder));
  const free = whole.filter((job) => !held.has(job.id));
  const references = free.flatMap((job) => job.files.map((file) => ({ job: job.id, file })));
  const retried = await client.query<{ id: string }>(retrySql, [
    tenantId,
    free.map((job) => job.id),
    references.map((reference) => reference.job),
    references.map((reference) => reference.file),
    free.map((job) => job.row.waits),
  ]);
  // As after the retry of one: what they waited for is looked at again.
  for (const { id, row } of free) if (row.waits) await releaseJob(client, id);
  return { done: retried.rows.length, errors, queued: retried.rows.length };
}

interface FailedRow {
  readonly id: string;
  readonly task: string;
  readonly input: unknown;
  readonly unique_key: UniqueKeyOption | null;
  readonly is_purged: boolean;
  readonly waits: boolean;
}

function keyHeld(jobId: string, holder: string): JobProblem {
  return { jobId, code: 'unique-key-held', message: `The job ${holder} has its unique key.` };
}

export function inputExpired(jobId: string): JobProblem {
  return { jobId, code: 'input-expired', message: 'Its input was deleted when its retention ended.' };
}

export function inputMissing(jobId: string): JobProblem {
  return { jobId, code: 'input-missing', message: 'A file of its input was deleted.' };
}

export function unknownTask(jobId: string, task: string): JobProblem {
  return { jobId, code: 'unknown-task', message: `There is no task "${task}" for clients.` };
}
