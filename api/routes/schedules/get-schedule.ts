import { z } from 'zod';
import { findSchedule, type ScheduleRow } from '#shared/db/schedules.ts';
import { AppError } from '#shared/errors.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute } from '../../http/define-route.ts';
import { presentSchedule, scheduleSchema } from '../../present-schedule.ts';

export const scheduleParams = z.object({ key: z.string().meta({ examples: ['nightly-report'] }) });

const keyPattern = /^[A-Za-z0-9][\w.:@-]{0,99}$/;

export const getSchedule = defineRoute({
  method: 'get',
  path: '/v1/schedules/:key',
  scope: 'read',
  tag: 'Schedules',
  summary: 'A schedule, when it runs next, and what became of it',
  params: scheduleParams,
  responses: { 200: { description: 'The schedule.', schema: scheduleSchema } },
  problems: ['not-found'],
  async handle({ deps, identity, params, res }) {
    res.json(presentSchedule(await loadSchedule(deps, identity.tenantId, params.key)));
  },
});

/** @throws AppError `not-found`: for keys of other tenants as well. */
export async function loadSchedule(deps: ApiDeps, tenantId: string, key: string): Promise<ScheduleRow> {
  const row = isScheduleKey(key) ? await findSchedule(deps.db, tenantId, key) : undefined;
  if (row === undefined) throw noSchedule(key);
  return row;
}

export function isScheduleKey(key: string): boolean {
  return keyPattern.test(key);
}

export function noSchedule(key: string): AppError {
  return new AppError('not-found', `There is no schedule "${key.slice(0, 100)}".`);
}
