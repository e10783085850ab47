import { isMissingFileError } from '#shared/db/accept-jobs.ts';
import { findWorkflow, renewSteps, type StoredStep } from '#shared/db/workflows.ts';
import { isFinal } from '#shared/domain/job.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { planWorkflow, toJobs, type PlannedStep } from '../../plan-workflow.ts';
import { workflowSchema } from '../../present-workflow.ts';
import { idsInOrder } from './create-workflow.ts';
import { loadWorkflow, missingWorkflow, workflowParams } from './get-workflow.ts';

export const retryWorkflow = defineRoute({
  method: 'post',
  path: '/v1/workflows/:id/retry',
  scope: 'submit',
  tag: 'Workflows',
  summary: 'Run what did not succeed again',
  description:
    'Every step that failed or was cancelled gets a new job; those that succeeded keep their results. Only when all steps have ended.',
  params: workflowParams,
  responses: { 202: { description: 'They run again.', schema: workflowSchema } },
  problems: [
    'not-found',
    'workflow-running',
    'nothing-to-retry',
    'result-expired',
    'invalid-input',
    'file-not-found',
    'backlog-full',
    'too-many-waiting',
  ],
  async handle({ deps, identity, params, res }) {
    const { tenantId } = identity;
    const workflow = isUuid(params.id) ? await findWorkflow(deps.db, tenantId, params.id) : undefined;
    if (workflow === undefined) throw missingWorkflow(params.id);
    deps.backlog.check();
    const release = await deps.quotas.waiting.take(tenantId, workflow.total - workflow.counts.succeeded);
    const renewed = await renewSteps(deps.db, tenantId, params.id, (stored, traceparent) => {
      checkRetryable(stored);
      // Their order is that of the first time; the tasks may have changed since, so all of it is checked again.
      const planned = planWorkflow(deps, new Map(stored.map((step) => [step.name, toRequest(step)])));
      const states = new Map(stored.map((step) => [step.name, step]));
      const again = planned.filter((step) => states.get(step.name)?.state !== 'succeeded');
      checkResults(again, states);
      const newIds = idsInOrder(again.map((step) => step.name));
      const oldIds = new Map(stored.map((step) => [step.name, step.job_id]));
      return {
        newIds,
        jobs: toJobs(deps, planned, { tenantId, workflowId: params.id, newIds, oldIds, traceparent }),
      };
    })
      .catch((err: unknown) => {
        if (isMissingFileError(err))
          throw new AppError('file-not-found', 'A file, or a job, that a step needs was deleted.', {
            cause: err,
          });
        throw err;
      })
      .finally(release);
    if (renewed === undefined) throw missingWorkflow(params.id);
    for (const delivery of renewed.deliveries) deps.dispatcher.dispatch(delivery);
    res.setHeader('Retry-After', '1');
    res.status(202).json(await loadWorkflow(deps, tenantId, params.id));
  },
});

function checkRetryable(steps: readonly StoredStep[]): void {
  const open = steps.find((step) => (step.state !== null && !isFinal(step.state)) || step.has_open_items);
  if (open !== undefined)
    throw new AppError(
      'workflow-running',
      `The step "${open.name}" has not ended. Cancel the workflow, or wait.`,
      {
        retryAfterSeconds: 1,
      },
    );
  if (steps.every((step) => step.state === 'succeeded'))
    throw new AppError('nothing-to-retry', 'Every step has succeeded.');
}

/** @throws AppError `result-expired` when a step would wait for a success of which nothing is left. */
function checkResults(again: readonly PlannedStep[], stored: ReadonlyMap<string, StoredStep>): void {
  for (const step of again) {
    for (const [name, { refs }] of step.edges) {
      const parent = stored.get(name);
      if (parent?.state === 'succeeded' && parent.is_purged && refs.length > 0)
        throw new AppError(
          'result-expired',
          `The result of the step "${name}", which "${step.name}" needs, has expired.`,
        );
    }
  }
}

function toRequest(step: StoredStep) {
  return {
    task: step.task,
    input: step.input,
    options: step.options,
    after: step.after,
    isOptional: step.is_optional,
    forEach: step.for_each?.items,
    limit: step.for_each?.limit ?? undefined,
    optionalItems: step.for_each?.optionalItems,
  };
}
