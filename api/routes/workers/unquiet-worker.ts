import { defineRoute } from '../../http/define-route.ts';
import { workerSchema } from '../../present-worker.ts';
import { switchWorker, workerParams } from './switch-worker.ts';

export const unquietWorker = defineRoute({
  method: 'post',
  path: '/v1/workers/:id/unquiet',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Let a quiet worker take jobs again',
  params: workerParams,
  responses: { 200: { description: 'The worker.', schema: workerSchema } },
  problems: ['not-found'],
  handle: (ctx) => switchWorker(ctx, false),
});
