import { toUniqueKey, type UniqueKeyOption } from '#shared/domain/unique-key.ts';
import { retryJob as retry } from '#shared/db/retry-job.ts';
import type { JobRow } from '#shared/db/jobs.ts';
import { AppError } from '#shared/errors.ts';
import { task as bulkTask } from '#tasks/jobs-bulk/task.ts';
import { getTask } from '../../accept-job.ts';
import type { ApiDeps } from '../../deps.ts';
import { hasScope } from '../../http/authenticate.ts';
import { defineRoute, type Identity } from '../../http/define-route.ts';
import { jobSchema, presentJob } from '../../present-job.ts';
import { jobParams, loadJob } from './get-job.ts';

export const retryJob = defineRoute({
  method: 'post',
  path: '/v1/jobs/:id/retry',
  scope: 'submit',
  tag: 'Jobs',
  summary: 'Try a failed job again',
  description:
    'The same job is queued again, with all the attempts that it was given at first, and with its input as it is. Its story stays: new attempts are added to the old ones. Effects outside that are on record, such as an e-mail that may have been sent, are not repeated. To change the input, or to do everything anew, replay the job.',
  params: jobParams,
  responses: { 202: { description: 'Queued again.', schema: jobSchema } },
  problems: [
    'not-found',
    'job-not-failed',
    'unique-key-held',
    'input-missing',
    'input-expired',
    'unknown-task',
    'backlog-full',
    'too-many-waiting',
  ],
  async handle({ deps, identity, params, res }) {
    const job = await loadJob(deps, identity.tenantId, params.id);
    deps.backlog.check();
    const inputFiles = findInputFiles(deps, identity, job);
    const { uniqueKey } = job.options as { uniqueKey?: UniqueKeyOption };
    // Where the quota is used up, it would wait beyond it.
    const release = await deps.quotas.waiting.take(identity.tenantId, 1);
    const answer = await retry(deps.db, {
      tenantId: identity.tenantId,
      id: job.id,
      inputFiles,
      unique: uniqueKey && { task: job.task, uniqueKey: toUniqueKey(uniqueKey) },
    }).finally(release);
    switch (answer.type) {
      case 'missing':
        throw new AppError('not-found', `There is no job ${params.id}.`);
      case 'not-failed':
        throw new AppError('job-not-failed', `The job is ${answer.state}. Replay makes a new job of any.`);
      case 'purged':
        throw inputExpired();
      case 'key-held':
        throw new AppError(
          'unique-key-held',
          `The job ${answer.jobId} has the unique key of this one. Wait until it has ended.`,
        );
      case 'file-missing':
        throw new AppError(
          'input-missing',
          'A file of the input was deleted. Upload it again, and replay the job with an input that names the new file.',
        );
      case 'queued':
        break;
    }
    res.status(202).json(presentJob(await loadJob(deps, identity.tenantId, job.id), [], []));
  },
});

/** @throws AppError `unknown-task`, `forbidden`. */
function findInputFiles(deps: ApiDeps, identity: Identity, job: JobRow): string[] {
  // No client can send this task itself; who may ask for it may also let it go on where it failed.
  if (job.task === bulkTask.name) {
    if (!hasScope(identity, 'operate'))
      throw new AppError(
        'forbidden',
        'Retrying a bulk action needs the scope "operate", as asking for one does.',
      );
    return [];
  }
  if (job.purged_at !== null) return [];
  return getTask(deps, job.task)
    .findFiles(job.input)
    .map((file) => file.id);
}

export function inputExpired(): AppError {
  return new AppError(
    'input-expired',
    'The input of the job was deleted when its retention ended. Send it again as a new job.',
  );
}
