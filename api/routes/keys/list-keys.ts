import { listKeys as listRows } from '#shared/db/api-keys.ts';
import { isUuid } from '#shared/ids.ts';
import { defineRoute } from '../../http/define-route.ts';
import { pageQuery, pageSchema, readPage } from '../../page.ts';
import { keySchema, presentKey } from '../../present-key.ts';

export const listKeys = defineRoute({
  method: 'get',
  path: '/v1/keys',
  scope: 'admin',
  tag: 'Administration',
  summary: 'All API keys',
  description: 'Of all tenants, oldest first, revoked and expired ones included.',
  query: pageQuery('Keys'),
  responses: {
    200: {
      description: 'One page.',
      schema: pageSchema(keySchema, 'ApiKeyPage'),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, query, res }) {
    res.json(
      await readPage(query, {
        filter: 'keys',
        isKey: isUuid,
        read: (after, limit) => listRows(deps.db, { limit, ...(after !== undefined && { after }) }),
        keyOf: (row) => row.id,
        present: presentKey,
      }),
    );
  },
});
