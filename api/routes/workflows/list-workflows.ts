import { z } from 'zod';
import { listWorkflows as listRows } from '#shared/db/workflows.ts';
import { isUuid } from '#shared/ids.ts';
import { decodeCursor, encodeCursor, invalidCursor } from '../../cursor.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentWorkflowSummary, workflowSummarySchema } from '../../present-workflow.ts';

const filter = 'workflows';

export const listWorkflows = defineRoute({
  method: 'get',
  path: '/v1/workflows',
  scope: 'read',
  tag: 'Workflows',
  summary: 'All workflows',
  description: 'The newest first. Workflows in lists lack `steps`.',
  query: z.strictObject({
    limit: z.coerce.number().int().min(1).max(100).default(20).describe('Workflows on one page.'),
    cursor: z.string().max(200).optional().describe('`nextCursor` of the previous page.'),
  }),
  responses: {
    200: {
      description: 'One page.',
      schema: z
        .object({
          data: z.array(workflowSummarySchema),
          nextCursor: z.string().nullable().describe('Null on the last page.'),
        })
        .meta({ id: 'WorkflowPage' }),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, identity, query, res }) {
    const before = query.cursor === undefined ? undefined : decodeCursor(filter, query.cursor);
    if (before !== undefined && !isUuid(before)) throw invalidCursor();
    // One more than asked for tells whether there is another page.
    const rows = await listRows(deps.db, identity.tenantId, {
      limit: query.limit + 1,
      ...(before !== undefined && { before }),
    });
    const page = rows.slice(0, query.limit);
    const last = rows.length > page.length ? page.at(-1) : undefined;
    res.json({
      data: page.map(presentWorkflowSummary),
      nextCursor: last === undefined ? null : encodeCursor(filter, last.id),
    });
  },
});
