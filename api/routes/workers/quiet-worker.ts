import { defineRoute } from '../../http/define-route.ts';
import { workerSchema } from '../../present-worker.ts';
import { switchWorker, workerParams } from './switch-worker.ts';

export const quietWorker = defineRoute({
  method: 'post',
  path: '/v1/workers/:id/quiet',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Let a worker take no new jobs',
  description:
    'Within about a second it takes nothing new. It runs what it has to the end, and stays alive: stop it when `busy` is 0. A worker that is started again is a new one, and not quiet.',
  params: workerParams,
  responses: { 200: { description: 'The worker.', schema: workerSchema } },
  problems: ['not-found'],
  handle: (ctx) => switchWorker(ctx, true),
});
