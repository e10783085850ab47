import { z } from 'zod';
import { drainQueue as drain } from '#shared/db/drain-queue.ts';
import { AppError } from '#shared/errors.ts';
import { hasScope } from '../../http/authenticate.ts';
import { defineRoute } from '../../http/define-route.ts';
import { isJson, parseWith } from '../../http/read-json.ts';
import { loadQueue, queueParams, reason } from './load-queue.ts';

/** Longest that one call goes on, in ms; whoever has more to drain calls again. */
const drainBudgetMs = 20_000;

const drainBody = z.strictObject({
  reason: reason.describe('Kept with each job, as `cancelReason`.'),
  allTenants: z
    .boolean()
    .default(false)
    .describe('Jobs of all tenants, not only of that of the key. Needs the scope `admin`.'),
});

export const drainQueue = defineRoute({
  method: 'post',
  path: '/v1/queues/:name/drain',
  scope: 'operate',
  tag: 'Queues and workers',
  summary: 'Cancel everything in a queue that has not started',
  description: `Cancels the jobs of the key's tenant that are scheduled, blocked, queued or retrying, and were there when the call began. What runs goes on. A queue too long for ${drainBudgetMs / 1_000} s is drained in part, and \`done\` is false: call again.`,
  params: queueParams,
  streams: { 'application/json': { description: 'Optional.', schema: drainBody } },
  responses: {
    200: {
      description: 'How many were cancelled.',
      schema: z
        .object({
          cancelled: z.int(),
          done: z.boolean().describe('False: the time was up, and there are more. Call again.'),
        })
        .meta({ id: 'DrainAnswer' }),
    },
  },
  problems: ['not-found', 'invalid-json', 'invalid-input', 'content-too-large'],
  async handle({ deps, identity, params: { name }, req, res }) {
    const body = parseWith(drainBody, isJson(req) ? await deps.readJson(req) : {});
    if (body.allTenants && !hasScope(identity, 'admin'))
      throw new AppError(
        'forbidden',
        'Draining the jobs of all tenants needs the scope "admin". Without `allTenants` those of your own are drained.',
      );
    await loadQueue(deps, name);
    const { cancelled, isDone } = await drain(deps.db, {
      queue: name,
      tenantId: body.allTenants ? undefined : identity.tenantId,
      reason: body.reason ?? null,
      budgetMs: drainBudgetMs,
      onCancelled(ids) {
        deps.signals.ended(ids);
        for (const id of ids) deps.waiter.notify(id);
      },
    });
    res.json({ cancelled, done: isDone });
  },
});
