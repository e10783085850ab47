import { z } from 'zod';
import { countBatch, findBatch } from '#shared/db/batches.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { batchSchema, presentBatch } from '../../present-batch.ts';

export const getBatch = defineRoute({
  method: 'get',
  path: '/v1/batches/:id',
  scope: 'read',
  tag: 'Jobs',
  summary: 'How far a batch is',
  description: 'Its jobs, counted by state. `GET /v1/jobs?q=batch:…` lists them.',
  params: z.object({ id: z.string() }),
  responses: {
    200: {
      description: 'The batch.',
      schema: batchSchema,
      headers: { 'Retry-After': 'While jobs have not ended.' },
    },
  },
  problems: ['not-found'],
  async handle({ deps, identity, params, res }) {
    const row = isUuid(params.id) ? await findBatch(deps.db, identity.tenantId, params.id) : undefined;
    if (row === undefined) throw new AppError('not-found', `There is no batch ${params.id.slice(0, 64)}.`);
    const batch = presentBatch(row, await countBatch(deps.db, identity.tenantId, row.id));
    if (!batch.isFinal) res.setHeader('Retry-After', '1');
    res.json(batch);
  },
});
