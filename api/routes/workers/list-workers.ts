import { listWorkers as list } from '#shared/db/worker-list.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { pageQuery, pageSchema, readPage } from '../../page.ts';
import { presentWorker, workerSchema } from '../../present-worker.ts';

export const listWorkers = defineRoute({
  method: 'get',
  path: '/v1/workers',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Workers, and what they do',
  description:
    'In the order in which they were started. Dead ones are shown for a day; one that left in order is not.',
  query: pageQuery('Workers', { max: 500, default: 100 }),
  responses: {
    200: {
      description: 'One page.',
      schema: pageSchema(workerSchema, 'WorkerPage'),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, identity, query, res }) {
    res.json(
      await readPage(query, {
        filter: 'workers',
        isKey: isUuid,
        read: (after, limit) =>
          list(deps.db, identity.tenantId, { limit, ...(after !== undefined && { after }) }),
        keyOf: (row) => row.id,
        present: presentWorker,
      }),
    );
  },
});
