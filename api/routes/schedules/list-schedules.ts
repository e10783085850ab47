import { z } from 'zod';
import { listSchedules as listRows } from '#shared/db/schedules.ts';
import { decodeCursor, encodeCursor, invalidCursor } from '../../cursor.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentScheduleSummary, scheduleSummarySchema } from '../../present-schedule.ts';
import { isScheduleKey } from './get-schedule.ts';

const filter = 'schedules';

export const listSchedules = defineRoute({
  method: 'get',
  path: '/v1/schedules',
  scope: 'read',
  tag: 'Schedules',
  summary: 'All schedules',
  description: 'In the order of their keys. Schedules in lists lack `input`, `options` and `nextRuns`.',
  query: z.strictObject({
    limit: z.coerce.number().int().min(1).max(100).default(20).describe('Schedules on one page.'),
    cursor: z.string().max(200).optional().describe('`nextCursor` of the previous page.'),
  }),
  responses: {
    200: {
      description: 'One page.',
      schema: z
        .object({
          data: z.array(scheduleSummarySchema),
          nextCursor: z.string().nullable().describe('Null on the last page.'),
        })
        .meta({ id: 'SchedulePage' }),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, identity, query, res }) {
    const after = query.cursor === undefined ? undefined : decodeCursor(filter, query.cursor);
    if (after !== undefined && !isScheduleKey(after)) throw invalidCursor();
    // One more than asked for tells whether there is another page.
    const rows = await listRows(deps.db, identity.tenantId, {
      limit: query.limit + 1,
      ...(after !== undefined && { after }),
    });
    const page = rows.slice(0, query.limit);
    const last = rows.length > page.length ? page.at(-1) : undefined;
    res.json({
      data: page.map(presentScheduleSummary),
      nextCursor: last === undefined ? null : encodeCursor(filter, last.key),
    });
  },
});
