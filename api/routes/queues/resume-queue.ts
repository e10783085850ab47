import { resumeQueue as resume } from '#shared/db/pause-queue.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentQueue, queueSchema } from '../../present-queue.ts';
import { isQueueName, loadQueue, queueParams, unknownQueue } from './load-queue.ts';

export const resumeQueue = defineRoute({
  method: 'post',
  path: '/v1/queues/:name/resume',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Resume a paused queue',
  description:
    'What waited starts within about a second, in the order of priority and age, however long the pause was. Resuming a queue that is not paused is fine.',
  params: queueParams,
  responses: { 200: { description: 'The queue.', schema: queueSchema } },
  problems: ['not-found'],
  async handle({ deps, params: { name }, res }) {
    if (!isQueueName(name) || !(await resume(deps.db, name))) throw await unknownQueue(deps, name);
    res.json(presentQueue(await loadQueue(deps, name)));
  },
});
