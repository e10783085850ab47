import { acceptJob } from '../../accept-job.ts';
import { defineRoute } from '../../http/define-route.ts';
import { readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { jobSchema } from '../../present-job.ts';
import { answerAccepted, duplicateResponse } from '../jobs/create-job.ts';
import { loadSchedule, scheduleParams } from './get-schedule.ts';

export const triggerSchedule = defineRoute({
  method: 'post',
  path: '/v1/schedules/:key/trigger',
  scope: 'submit',
  tag: 'Schedules',
  summary: 'Make a job of a schedule now',
  description:
    'Also while it is paused, and whatever its `overlap` says. The times at which it is due stay what they are.',
  params: scheduleParams,
  headers: {
    'Idempotency-Key': 'Optional. The same key within 24 h gives the same job.',
    traceparent: 'Optional. W3C trace context, stored with the job.',
  },
  responses: {
    200: duplicateResponse,
    202: {
      description: 'Accepted: the job is stored and will run.',
      schema: jobSchema,
      headers: {
        Location: 'The job.',
        'Retry-After': 'Seconds until asking makes sense.',
        'Idempotency-Replayed': '`true` when the key was used before.',
      },
    },
  },
  problems: [
    'not-found',
    'invalid-idempotency-key',
    'invalid-input',
    'unknown-task',
    'file-not-found',
    'idempotency-mismatch',
    'backlog-full',
    'too-many-waiting',
  ],
  async handle(ctx) {
    const { deps, identity, params, req } = ctx;
    const idempotencyKey = readIdempotencyKey(req);
    const { key, task, input, options } = await loadSchedule(deps, identity.tenantId, params.key);
    const accepted = await acceptJob(deps, identity, {
      task,
      input,
      options,
      newFiles: [],
      idempotencyKey,
      traceparent: readTraceparent(req),
      scheduleKey: key,
    });
    answerAccepted(ctx, accepted);
  },
});
