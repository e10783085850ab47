import { z } from 'zod';
import { cancelWorkflow as cancel } from '#shared/db/workflows.ts';
import { isStorable } from '#shared/domain/text.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { isJson, parseWith } from '../../http/read-json.ts';
import { workflowSchema } from '../../present-workflow.ts';
import { loadWorkflow, missingWorkflow, workflowParams } from './get-workflow.ts';

const cancelBody = z.strictObject({
  reason: z.string().max(1_000).refine(isStorable).optional().describe('Kept with the jobs.'),
});

export const cancelWorkflow = defineRoute({
  method: 'post',
  path: '/v1/workflows/:id/cancel',
  scope: 'submit',
  tag: 'Workflows',
  summary: 'Cancel a workflow',
  description:
    'All steps that wait end at once, those that run within seconds. What has succeeded stays. Cancelling a cancelled workflow again is fine.',
  params: workflowParams,
  streams: { 'application/json': { description: 'Optional.', schema: cancelBody } },
  responses: { 202: { description: 'Cancelled, or about to be.', schema: workflowSchema } },
  problems: ['not-found', 'workflow-final'],
  async handle({ deps, identity, params, req, res }) {
    const body = isJson(req) ? parseWith(cancelBody, await deps.readJson(req)) : {};
    if (!isUuid(params.id)) throw missingWorkflow(params.id);
    const answer = await cancel(deps.db, identity.tenantId, params.id, body.reason ?? null);
    if (answer.type === 'missing') throw missingWorkflow(params.id);
    if (answer.type === 'cancelled') {
      for (const jobId of answer.active) deps.signals.cancel(jobId);
      deps.signals.ended(answer.ended);
      for (const jobId of answer.ended) deps.waiter.notify(jobId);
    }
    const workflow = await loadWorkflow(deps, identity.tenantId, params.id);
    // Running: items of a step that was cancelled are just being ended.
    if (answer.type === 'final' && workflow.state !== 'cancelled' && workflow.state !== 'running')
      throw new AppError('workflow-final', `The workflow has ${workflow.state} already.`);
    res.status(202).json(workflow);
  },
});
