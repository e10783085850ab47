import { z } from 'zod';
import { listQueueStats } from '#shared/db/queue-stats.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentQueue, queueSchema } from '../../present-queue.ts';

export const listQueues = defineRoute({
  method: 'get',
  path: '/v1/queues',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Queues, and what waits in them',
  description:
    'Numbers over all tenants. Asking is cheap, however long the backlog is: no more than a capped number of rows is read.',
  responses: {
    200: {
      description: 'All queues, by name.',
      schema: z.object({ data: z.array(queueSchema) }).meta({ id: 'QueueList' }),
    },
  },
  async handle({ deps, res }) {
    res.json({ data: (await listQueueStats(deps.db)).map(presentQueue) });
  },
});
