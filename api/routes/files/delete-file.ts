import { deleteFile as deleteRow } from '#shared/db/files.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { fileParams } from './get-file.ts';

export const deleteFile = defineRoute({
  method: 'delete',
  path: '/v1/files/:id',
  scope: 'submit',
  tag: 'Files',
  summary: 'Delete a file',
  description:
    'Files are deleted by themselves when they expire. One that a schedule needs, or a job that has not ended, cannot be deleted.',
  params: fileParams,
  responses: { 204: { description: 'Deleted.' } },
  problems: ['not-found', 'file-in-use'],
  async handle({ deps, identity, params, res }) {
    const answer = isUuid(params.id) ? await deleteRow(deps.db, identity.tenantId, params.id) : 'missing';
    if (answer === 'missing') throw new AppError('not-found', `There is no file ${params.id.slice(0, 64)}.`);
    if (answer === 'in-use')
      throw new AppError(
        'file-in-use',
        'A job that has not ended, or a schedule, refers to this file. Cancel the job or wait for its end; change or delete the schedule.',
      );
    // The row is gone, so nobody can reach the bytes any more; the sweep deletes them if this fails.
    await deps.storage
      .delete(params.id)
      .catch((err: unknown) => deps.log.warn({ err }, 'bytes of a deleted file are left to the sweep'));
    res.status(204).end();
  },
});
