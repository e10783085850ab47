import { z } from 'zod';
import { listKeys as listRows } from '#shared/db/api-keys.ts';
import { isUuid } from '#shared/ids.ts';
import { decodeCursor, encodeCursor, invalidCursor } from '../../cursor.ts';
import { defineRoute } from '../../http/define-route.ts';
import { keySchema, presentKey } from '../../present-key.ts';

const filter = 'keys';

export const listKeys = defineRoute({
  method: 'get',
  path: '/v1/keys',
  scope: 'admin',
  tag: 'Administration',
  summary: 'All API keys',
  description: 'Of all tenants, oldest first, revoked and expired ones included.',
  query: z.strictObject({
    limit: z.coerce.number().int().min(1).max(100).default(20).describe('Keys on one page.'),
    cursor: z.string().max(200).optional().describe('`nextCursor` of the previous page.'),
  }),
  responses: {
    200: {
      description: 'One page.',
      schema: z
        .object({
          data: z.array(keySchema),
          nextCursor: z.string().nullable().describe('Null on the last page.'),
        })
        .meta({ id: 'ApiKeyPage' }),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, query, res }) {
    const after = query.cursor === undefined ? undefined : decodeCursor(filter, query.cursor);
    if (after !== undefined && !isUuid(after)) throw invalidCursor();
    // One more than asked for tells whether there is another page.
    const rows = await listRows(deps.db, { limit: query.limit + 1, ...(after !== undefined && { after }) });
    const page = rows.slice(0, query.limit);
    const last = rows.length > page.length ? page.at(-1) : undefined;
    res.json({
      data: page.map(presentKey),
      nextCursor: last === undefined ? null : encodeCursor(filter, last.id),
    });
  },
});
