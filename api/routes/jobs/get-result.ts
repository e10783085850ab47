import { listFilesOfJob } from '#shared/db/files.ts';
import { AppError } from '#shared/errors.ts';
import { z } from 'zod';
import { defineRoute } from '../../http/define-route.ts';
import { retryAfterSeconds } from '../../present-job.ts';
import { jobParams, waitForJob, waitQuery } from './get-job.ts';

export const getResult = defineRoute({
  method: 'get',
  path: '/v1/jobs/:id/result',
  scope: 'read',
  tag: 'Jobs',
  summary: 'The result of a job',
  description:
    'The JSON result; or, when the job made exactly one file, a redirect to its bytes (`curl -L` follows it).',
  params: jobParams,
  query: waitQuery,
  responses: {
    200: { description: 'The result.', schema: z.unknown() },
    202: {
      description: 'The job has not ended.',
      headers: { 'Retry-After': 'Seconds until asking makes sense.' },
    },
    303: {
      description: 'The result is the file at `Location`.',
      headers: { Location: 'The bytes of the file.' },
    },
  },
  problems: ['not-found', 'job-failed', 'job-cancelled', 'result-expired'],
  async handle(ctx) {
    const { deps, identity, res } = ctx;
    const row = await waitForJob(ctx);
    switch (row.state) {
      case 'failed':
        throw new AppError(
          'job-failed',
          `${row.error?.code ?? 'unknown'}: ${row.error?.message ?? 'The job failed.'}`,
        );
      case 'cancelled':
        throw new AppError('job-cancelled', row.cancel_reason ?? 'The job was cancelled.');
      case 'succeeded':
        break;
      default:
        res.setHeader('Retry-After', String(retryAfterSeconds(row, new Date()) ?? 1));
        res
          .status(202)
          .json({ id: row.id, state: row.state, progress: row.progress ?? { percent: 0, message: null } });
        return;
    }
    if (row.purged_at !== null)
      throw new AppError(
        'result-expired',
        `The result was deleted at ${row.purged_at.toISOString()}, after its retention.`,
      );
    const files = await listFilesOfJob(deps.db, identity.tenantId, row.id);
    if (files.length === 1 && files[0] !== undefined) {
      res.setHeader('Location', `/v1/files/${files[0].id}/content`);
      res.status(303).json(row.result ?? null);
      return;
    }
    res.status(200).json(row.result ?? null);
  },
});
