import { listWorkflows as listRows } from '#shared/db/workflows.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { pageQuery, pageSchema, readPage } from '../../page.ts';
import { presentWorkflowSummary, workflowSummarySchema } from '../../present-workflow.ts';

export const listWorkflows = defineRoute({
  method: 'get',
  path: '/v1/workflows',
  scope: 'read',
  tag: 'Workflows',
  summary: 'All workflows',
  description: 'The newest first. Workflows in lists lack `steps`.',
  query: pageQuery('Workflows'),
  responses: {
    200: {
      description: 'One page.',
      schema: pageSchema(workflowSummarySchema, 'WorkflowPage'),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, identity, query, res }) {
    res.json(
      await readPage(query, {
        filter: 'workflows',
        isKey: isUuid,
        read: (before, limit) =>
          listRows(deps.db, identity.tenantId, { limit, ...(before !== undefined && { before }) }),
        keyOf: (row) => row.id,
        present: presentWorkflowSummary,
      }),
    );
  },
});
