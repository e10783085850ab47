import { deleteJob as deleteRow } from '#shared/db/delete-job.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { jobParams } from './get-job.ts';

export const deleteJob = defineRoute({
  method: 'delete',
  path: '/v1/jobs/:id',
  scope: 'submit',
  tag: 'Jobs',
  summary: 'Delete a job that has ended',
  description:
    'With its result, its log, its story and the files that it made. Jobs are deleted by themselves when their retention ends. One that has not ended is cancelled first. Uploaded files of its input stay.',
  params: jobParams,
  responses: { 204: { description: 'Deleted.' } },
  problems: ['not-found', 'job-not-final', 'job-in-use', 'file-in-use'],
  async handle({ deps, identity, params, res }) {
    const answer = isUuid(params.id)
      ? await deleteRow(deps.db, identity.tenantId, params.id)
      : { type: 'missing' as const };
    switch (answer.type) {
      case 'missing':
        throw new AppError('not-found', `There is no job ${params.id.slice(0, 64)}.`);
      case 'not-final':
        throw new AppError(
          'job-not-final',
          `The job is ${answer.state}. Cancel it first, or wait for its end.`,
        );
      case 'awaited':
        throw new AppError(
          'job-in-use',
          'A job that has not ended waits for this one, or takes something from its result. Cancel that job, or wait for its end.',
        );
      case 'file-in-use':
        throw new AppError(
          'file-in-use',
          'A schedule, or a job that has not ended, takes a file of this one as its input. Delete that schedule, cancel that job, or wait for its end.',
        );
      case 'deleted':
        break;
    }
    // The rows are gone, so nobody can reach the bytes any more; the sweep deletes them if this fails.
    await Promise.all(answer.fileIds.map((id) => deps.storage.delete(id))).catch((err: unknown) =>
      deps.log.warn({ err }, 'bytes of a deleted job are left to the sweep'),
    );
    res.status(204).end();
  },
});
