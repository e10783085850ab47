import { z } from 'zod';
import { revokeKey as revoke } from '#shared/db/api-keys.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';

export const revokeKey = defineRoute({
  method: 'delete',
  path: '/v1/keys/:id',
  scope: 'admin',
  tag: 'Administration',
  summary: 'Revoke an API key',
  description:
    'For good. Processes that have just seen the key still take it for up to 5 seconds. The last usable admin key cannot be revoked.',
  params: z.object({ id: z.string() }),
  responses: { 204: { description: 'Revoked.' } },
  problems: ['not-found', 'last-admin-key'],
  async handle({ deps, params, res }) {
    const answer = isUuid(params.id) ? await revoke(deps.db, params.id) : 'missing';
    switch (answer) {
      case 'missing':
        throw new AppError('not-found', `There is no key ${params.id.slice(0, 64)} that could be revoked.`);
      case 'last-admin':
        throw new AppError(
          'last-admin-key',
          'Without it nobody could make keys any more. Make another admin key first (POST /v1/keys).',
        );
      case 'revoked':
        res.status(204).end();
    }
  },
});
