import { z } from 'zod';
import { desiredWorkers } from '#shared/domain/autoscale.ts';
import { queueCountMax } from '#shared/db/queue-stats.ts';
import { defineRoute } from '../../http/define-route.ts';
import { loadQueue, queueParams } from './load-queue.ts';

export const getAutoscale = defineRoute({
  method: 'get',
  path: '/v1/queues/:name/autoscale',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'How many workers a queue could use',
  description:
    '`desired` is (backlog + busy) / jobsPerWorker, rounded up; a paused queue counts only what runs. For KEDA or a HorizontalPodAutoscaler, with their own limits around it.',
  params: queueParams,
  query: z.strictObject({
    jobsPerWorker: z.coerce
      .number()
      .int()
      .min(1)
      .max(1_000_000)
      .optional()
      .describe(
        'Jobs, running or waiting, that one worker should have. Default: the slots of the largest worker that serves the queue now, and 1 when there is none. Give it to scale from zero, or more than the slots where jobs are short.',
      ),
  }),
  responses: {
    200: {
      description: 'Numbers over all tenants.',
      schema: z
        .object({
          backlog: z
            .int()
            .describe(`Jobs that are ready and wait; ${queueCountMax} means that many or more.`),
          busy: z.int().describe('Jobs that run.'),
          oldestWaitMs: z.int(),
          desired: z.int().describe('Workers.'),
        })
        .meta({ id: 'Autoscale' }),
    },
  },
  problems: ['not-found', 'bad-request'],
  async handle({ deps, params, query, res }) {
    const stats = await loadQueue(deps, params.name);
    const { queued: backlog, active: busy, is_paused: isPaused } = stats;
    const jobsPerWorker = query.jobsPerWorker ?? stats.slots_of_one;
    res.json({
      backlog,
      busy,
      oldestWaitMs: Math.round(stats.oldest_wait_ms),
      desired: desiredWorkers({ backlog, busy, isPaused, jobsPerWorker }),
    });
  },
});
