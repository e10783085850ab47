import { listSchedules as listRows } from '#shared/db/schedules.ts';
import { defineRoute } from '../../http/define-route.ts';
import { pageQuery, pageSchema, readPage } from '../../page.ts';
import { presentScheduleSummary, scheduleSummarySchema } from '../../present-schedule.ts';
import { isScheduleKey } from './get-schedule.ts';

export const listSchedules = defineRoute({
  method: 'get',
  path: '/v1/schedules',
  scope: 'read',
  tag: 'Schedules',
  summary: 'All schedules',
  description: 'In the order of their keys. Schedules in lists lack `input`, `options` and `nextRuns`.',
  query: pageQuery('Schedules'),
  responses: {
    200: {
      description: 'One page.',
      schema: pageSchema(scheduleSummarySchema, 'SchedulePage'),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, identity, query, res }) {
    res.json(
      await readPage(query, {
        filter: 'schedules',
        isKey: isScheduleKey,
        read: (after, limit) =>
          listRows(deps.db, identity.tenantId, { limit, ...(after !== undefined && { after }) }),
        keyOf: (row) => row.key,
        present: presentScheduleSummary,
      }),
    );
  },
});
