import { z } from 'zod';
import { cancelJob as cancel } from '#shared/db/jobs.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import { isStorable } from '#shared/domain/text.ts';
import { defineRoute } from '../../http/define-route.ts';
import { isJson, parseWith } from '../../http/read-json.ts';
import { jobSchema, presentJob } from '../../present-job.ts';
import { jobParams, loadJob } from './get-job.ts';

const cancelBody = z.strictObject({
  reason: z.string().max(1_000).refine(isStorable).optional().describe('Kept with the job.'),
});

export const cancelJob = defineRoute({
  method: 'post',
  path: '/v1/jobs/:id/cancel',
  scope: 'submit',
  tag: 'Jobs',
  summary: 'Cancel a job',
  description:
    'A job that waits ends at once. One that runs is told to stop and is killed if it does not, within seconds; a success that was committed first stays. Cancelling a cancelled job again is fine.',
  params: jobParams,
  streams: { 'application/json': { description: 'Optional.', schema: cancelBody } },
  responses: { 202: { description: 'Cancelled, or about to be.', schema: jobSchema } },
  problems: ['not-found', 'job-final'],
  async handle({ deps, identity, params, req, res }) {
    const body = isJson(req) ? parseWith(cancelBody, await deps.readJson(req)) : {};
    if (!isUuid(params.id)) throw new AppError('not-found', 'There is no such job.');
    const answer = await cancel(deps.db, identity.tenantId, params.id, body.reason ?? null);
    switch (answer.type) {
      case 'missing':
        throw new AppError('not-found', `There is no job ${params.id}.`);
      case 'final':
        if (answer.state !== 'cancelled')
          throw new AppError('job-final', `The job has ${answer.state} already.`);
        break;
      case 'requested':
        deps.signals.cancel(params.id);
        break;
      case 'cancelled':
        deps.signals.ended([params.id]);
        deps.waiter.notify(params.id);
        break;
    }
    res.status(202).json(presentJob(await loadJob(deps, identity.tenantId, params.id), [], []));
  },
});
