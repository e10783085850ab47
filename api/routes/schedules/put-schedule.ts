import { z } from 'zod';
import { putSchedule as put, type NewSchedule } from '#shared/db/schedules.ts';
import { misfireGraceMs, misfireJobsMax, misfires, overlaps } from '#shared/domain/misfire.ts';
import { cronLengthMax, everyMsMax, everyMsMin, findCronProblem } from '#shared/domain/schedule-times.ts';
import { AppError } from '#shared/errors.ts';
import { jobOptions } from '#shared/tasks/job-options.ts';
import { checkFiles, checkJob } from '../../accept-job.ts';
import { defineRoute } from '../../http/define-route.ts';
import { invalidInput } from '../../http/read-json.ts';
import { presentSchedule, scheduleSchema } from '../../present-schedule.ts';
import { isScheduleKey, loadSchedule, scheduleParams } from './get-schedule.ts';

const newSchedule = z
  .strictObject({
    task: z.string().min(1).max(64).describe('Name of the task; GET /v1/tasks lists them.'),
    input: z
      .unknown()
      .optional()
      .describe("The task's input. Files that it names are kept as long as the schedule."),
    options: jobOptions.optional().describe('Of every job. Without `runAt`.'),
    cron: z
      .string()
      .max(cronLengthMax)
      .optional()
      .describe('Minute, hour, day, month, weekday; or 6 fields with seconds first. This or `everyMs`.'),
    timezone: z.string().max(64).optional().describe('Of the IANA database. Default: UTC. Only with `cron`.'),
    everyMs: z
      .int()
      .min(everyMsMin)
      .max(everyMsMax)
      .optional()
      .describe('Interval in ms; the first job is made one interval from now. This or `cron`.'),
    misfire: z
      .enum(misfires)
      .default('run-once')
      .describe(
        `What becomes of times that nobody was there for. \`skip\`: left out when later than ${misfireGraceMs} ms. \`run-once\`: one job for all of them. \`run-all\`: one each, the newest ${misfireJobsMax}.`,
      ),
    overlap: z
      .enum(overlaps)
      .default('allow')
      .describe('`skip`: no job is made while one of the schedule has not ended.'),
    paused: z.boolean().default(false).describe('Nothing is made until it is set to false again.'),
  })
  .meta({
    id: 'NewSchedule',
    examples: [
      {
        task: 'email.send',
        input: { to: ['ada@example.com'], subject: 'Good morning', text: 'It is nine.' },
        cron: '0 9 * * MON-FRI',
        timezone: 'Europe/Berlin',
      },
    ],
  });

export const putSchedule = defineRoute({
  method: 'put',
  path: '/v1/schedules/:key',
  scope: 'submit',
  tag: 'Schedules',
  summary: 'Make or change a schedule',
  description:
    'Everything is checked as for a job. Setting what is there already changes nothing, so send it as often as you like: an interval goes on counting from where it was, and nothing that is due gets lost. The key is yours: 1 to 100 of letters, digits and `. _ : @ -`, beginning with a letter or digit.',
  params: scheduleParams,
  body: newSchedule,
  responses: {
    200: { description: 'Changed.', schema: scheduleSchema },
    201: { description: 'Made.', schema: scheduleSchema, headers: { Location: 'The schedule.' } },
  },
  problems: ['bad-request', 'unknown-task', 'file-not-found', 'too-many-schedules'],
  async handle({ deps, identity, params, body, req, res }) {
    const { key } = params;
    if (!isScheduleKey(key)) {
      throw new AppError(
        'bad-request',
        'The key of a schedule is 1 to 100 of letters, digits and . _ : @ -, beginning with a letter or digit.',
      );
    }
    const timing = readTiming(body);
    const request = {
      task: body.task,
      input: body.input === undefined ? {} : body.input,
      options: body.options,
    };
    const { task } = checkJob(deps, request);
    if (body.options?.runAt !== undefined)
      throw invalidInput([{ pointer: '/options/runAt', detail: 'The schedule itself says when.' }]);
    if (body.options?.dependsOn !== undefined)
      throw invalidInput([
        { pointer: '/options/dependsOn', detail: 'The jobs of a schedule wait for none.' },
      ]);
    const fileIds = await checkFiles(deps, identity, task, { input: request.input, newFiles: [] });
    const limit = deps.config.WINDLASS_SCHEDULES_PER_TENANT_MAX;
    const { task: taskName, input } = request;
    const answer = await put(
      deps.db,
      identity.tenantId,
      {
        key,
        task: taskName,
        input,
        options: readSentOptions(req.body),
        timing,
        misfire: body.misfire,
        overlap: body.overlap,
        isPaused: body.paused,
        fileIds,
      },
      limit,
    );
    if (answer === 'too-many') {
      throw new AppError(
        'too-many-schedules',
        `There are ${limit} schedules already (WINDLASS_SCHEDULES_PER_TENANT_MAX). Delete some that are not needed.`,
      );
    }
    if (answer === 'missing-file')
      throw new AppError('file-not-found', 'A file of the input was deleted just now.');
    if (answer === 'created') res.setHeader('Location', `/v1/schedules/${encodeURIComponent(key)}`);
    res
      .status(answer === 'created' ? 201 : 200)
      .json(presentSchedule(await loadSchedule(deps, identity.tenantId, key)));
  },
});

/** @throws AppError `invalid-input`. */
function readTiming(body: z.output<typeof newSchedule>): NewSchedule['timing'] {
  const { cron, everyMs, timezone } = body;
  if ((cron === undefined) === (everyMs === undefined))
    throw invalidInput([{ pointer: '/cron', detail: 'Give cron or everyMs, one of them.' }]);
  if (everyMs !== undefined) {
    if (timezone !== undefined)
      throw invalidInput([
        { pointer: '/timezone', detail: 'An interval is the same in every time zone; leave it out.' },
      ]);
    return { type: 'every', everyMs };
  }
  const timing = { cron: cron ?? '', timezone: timezone ?? 'UTC' };
  const problem = findCronProblem(timing, new Date());
  if (problem !== undefined) throw invalidInput([{ pointer: `/${problem.field}`, detail: problem.detail }]);
  return { type: 'cron', ...timing };
}

/** What the client sent, without the defaults of today. */
function readSentOptions(body: unknown): Readonly<Record<string, unknown>> {
  // It has passed the schema: an object, whose options are an object or absent.
  return (body as { options?: Readonly<Record<string, unknown>> }).options ?? {};
}
