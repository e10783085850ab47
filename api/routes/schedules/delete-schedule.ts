import { deleteSchedule as deleteRow } from '#shared/db/schedules.ts';
import { defineRoute } from '../../http/define-route.ts';
import { isScheduleKey, noSchedule, scheduleParams } from './get-schedule.ts';

export const deleteSchedule = defineRoute({
  method: 'delete',
  path: '/v1/schedules/:key',
  scope: 'submit',
  tag: 'Schedules',
  summary: 'Delete a schedule',
  description: 'Jobs that it has made stay, and those that wait will run.',
  params: scheduleParams,
  responses: { 204: { description: 'Deleted.' } },
  problems: ['not-found'],
  async handle({ deps, identity, params: { key }, res }) {
    if (!isScheduleKey(key) || !(await deleteRow(deps.db, identity.tenantId, key))) throw noSchedule(key);
    res.status(204).end();
  },
});
