import { z } from 'zod';
import { listWorkers as list } from '#shared/db/worker-list.ts';
import { isUuid } from '#shared/ids.ts';
import { decodeCursor, encodeCursor, invalidCursor } from '../../cursor.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentWorker, workerSchema } from '../../present-worker.ts';

const filter = 'workers';

export const listWorkers = defineRoute({
  method: 'get',
  path: '/v1/workers',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Workers, and what they do',
  description:
    'In the order in which they were started. Dead ones are shown for a day; one that left in order is not.',
  query: z.strictObject({
    limit: z.coerce.number().int().min(1).max(500).default(100).describe('Workers on one page.'),
    cursor: z.string().max(200).optional().describe('`nextCursor` of the previous page.'),
  }),
  responses: {
    200: {
      description: 'One page.',
      schema: z
        .object({
          data: z.array(workerSchema),
          nextCursor: z.string().nullable().describe('Null on the last page.'),
        })
        .meta({ id: 'WorkerPage' }),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, identity, query, res }) {
    const after = query.cursor === undefined ? undefined : decodeCursor(filter, query.cursor);
    if (after !== undefined && !isUuid(after)) throw invalidCursor();
    // One more than asked for tells whether there is another page.
    const rows = await list(deps.db, identity.tenantId, {
      limit: query.limit + 1,
      ...(after !== undefined && { after }),
    });
    const page = rows.slice(0, query.limit);
    const last = rows.length > page.length ? page.at(-1) : undefined;
    res.json({
      data: page.map(presentWorker),
      nextCursor: last === undefined ? null : encodeCursor(filter, last.id),
    });
  },
});
