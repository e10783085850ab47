import { z } from 'zod';
import { pauseQueue as pause } from '#shared/db/pause-queue.ts';
import { defineRoute } from '../../http/define-route.ts';
import { isJson, parseWith } from '../../http/read-json.ts';
import { presentQueue, queueSchema } from '../../present-queue.ts';
import { isQueueName, loadQueue, queueParams, reason, unknownQueue } from './load-queue.ts';

const pauseBody = z.strictObject({ reason: reason.describe('Shown with the queue while it is paused.') });

export const pauseQueue = defineRoute({
  method: 'post',
  path: '/v1/queues/:name/pause',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Pause a queue',
  description:
    'For all tenants. Nothing of the queue starts any more once this is answered; what runs goes on. Jobs are still accepted, and wait. Pausing again is fine, and may give another reason.',
  params: queueParams,
  streams: { 'application/json': { description: 'Optional.', schema: pauseBody } },
  responses: { 200: { description: 'The queue, paused.', schema: queueSchema } },
  problems: ['not-found', 'invalid-json', 'invalid-input', 'content-too-large'],
  async handle({ deps, params: { name }, req, res }) {
    const body = isJson(req) ? parseWith(pauseBody, await deps.readJson(req)) : {};
    if (!isQueueName(name) || !(await pause(deps.db, name, body.reason ?? null)))
      throw await unknownQueue(deps, name);
    res.json(presentQueue(await loadQueue(deps, name)));
  },
});
