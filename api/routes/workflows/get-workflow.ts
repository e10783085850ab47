import { z } from 'zod';
import { findWorkflow, listSteps } from '#shared/db/workflows.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentWorkflow, workflowSchema } from '../../present-workflow.ts';

export const workflowParams = z.object({ id: z.string() });

/** Results of all steps together in one answer, in bytes. Named in docs/api.md. */
const workflowResultBytesMax = 1024 * 1024;

export const getWorkflow = defineRoute({
  method: 'get',
  path: '/v1/workflows/:id',
  scope: 'read',
  tag: 'Workflows',
  summary: 'What became of a workflow',
  description: 'Its state, how many steps are in which state, and every step with its job and its result.',
  params: workflowParams,
  responses: {
    200: {
      description: 'The workflow.',
      schema: workflowSchema,
      headers: { 'Retry-After': 'While it has not ended.' },
    },
  },
  problems: ['not-found'],
  async handle({ deps, identity, params, res }) {
    const workflow = await loadWorkflow(deps, identity.tenantId, params.id);
    if (workflow.state === 'running') res.setHeader('Retry-After', '1');
    res.json(workflow);
  },
});

/** @throws AppError `not-found`: for ids of other tenants as well. */
export async function loadWorkflow(
  deps: ApiDeps,
  tenantId: string,
  id: string,
): Promise<z.input<typeof workflowSchema>> {
  const row = isUuid(id) ? await findWorkflow(deps.db, tenantId, id) : undefined;
  if (row === undefined) throw missingWorkflow(id);
  return presentWorkflow(row, await listSteps(deps.db, row.id, workflowResultBytesMax));
}

export function missingWorkflow(id: string): AppError {
  return new AppError('not-found', `There is no workflow ${id.slice(0, 64)}.`);
}
