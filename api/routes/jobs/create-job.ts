import { z } from 'zod';
import { acceptJob, type Accepted } from '../../accept-job.ts';
import { defineRoute, type RouteContext } from '../../http/define-route.ts';
import { parseWith } from '../../http/read-json.ts';
import { readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { jobOptions } from '#shared/tasks/job-options.ts';
import { jobSchema, presentJob, retryAfterSeconds } from '../../present-job.ts';
import { acceptMultipartJob } from './accept-multipart-job.ts';

export const newJob = z.strictObject({
  task: z.string().min(1).max(64).describe('Name of the task; GET /v1/tasks lists them.'),
  input: z.unknown().describe("The task's input; its schema is in GET /v1/tasks."),
  options: jobOptions.optional(),
});

// Options are checked together with the input, so that pointers in errors are the same for every way in.
const envelope = z.strictObject({
  task: z.string().max(1_000),
  input: z.unknown().optional(),
  options: z.unknown().optional(),
});

/** Answered instead of 202 when another job has the unique key. */
export const duplicateResponse = {
  description:
    'No job was made: this one has the `uniqueKey`. With `"mode": "debounce"` it has got the new input and more time, if it still waited.',
  schema: jobSchema.extend({ duplicate: z.literal(true) }).meta({ id: 'DuplicateJob' }),
  headers: {
    Location: 'The job that has the key.',
    'Windlass-Duplicate': '`true`.',
    'Retry-After': 'While it has not ended: seconds until asking makes sense.',
    'Idempotency-Replayed': '`true` when the Idempotency-Key was used before.',
  },
};

export const createJob = defineRoute({
  method: 'post',
  path: '/v1/jobs',
  scope: 'submit',
  tag: 'Jobs',
  summary: 'Queue a job',
  description:
    'Checks the input against the schema of the task, stores the job durably and answers at once. As multipart/form-data, files are uploaded in the same call and become `input.file` (or `input.files`).',
  headers: {
    'Idempotency-Key': 'Optional. The same key with the same content within 24 h gives the same job.',
    traceparent: 'Optional. W3C trace context, stored with the job.',
  },
  streams: {
    'application/json': { description: 'The job.', schema: newJob },
    'multipart/form-data': {
      description:
        'The parts `task`, `input` (JSON, optional), `options` (JSON, optional), and one or more `file` parts, in any order.',
    },
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
    'invalid-json',
    'invalid-multipart',
    'upload-incomplete',
    'invalid-idempotency-key',
    'content-too-large',
    'unsupported-media-type',
    'invalid-input',
    'unknown-task',
    'file-not-found',
    'idempotency-mismatch',
    'too-many-uploads',
    'backlog-full',
    'too-many-waiting',
    'storage-full',
    'quota-full',
  ],
  async handle(ctx) {
    const { deps, req, identity } = ctx;
    const idempotencyKey = readIdempotencyKey(req);
    if (/^multipart\/form-data\b/i.test(req.headers['content-type'] ?? '')) {
      answerAccepted(ctx, await acceptMultipartJob(ctx, idempotencyKey));
      return;
    }
    const body = parseWith(envelope, await deps.readJson(req));
    answerAccepted(
      ctx,
      await acceptJob(deps, identity, {
        task: body.task,
        input: body.input === undefined ? {} : body.input,
        options: body.options,
        newFiles: [],
        idempotencyKey,
        traceparent: readTraceparent(req),
      }),
    );
  },
});

/** 202 with Location, or 200 with the job that has the unique key: the answer to every call that makes a job. */
export function answerAccepted(
  { res }: Pick<RouteContext<unknown, unknown, unknown>, 'res'>,
  accepted: Accepted,
): void {
  const { job, isReplayed, duplicate } = accepted;
  if (isReplayed) res.setHeader('Idempotency-Replayed', 'true');
  res.setHeader('Location', `/v1/jobs/${job.id}`);
  if (duplicate !== undefined) {
    res.setHeader('Windlass-Duplicate', 'true');
    const retryAfter = retryAfterSeconds(job, new Date());
    if (retryAfter !== undefined) res.setHeader('Retry-After', String(retryAfter));
    res.status(200).json({ ...presentJob(job, duplicate.attempts, duplicate.files), duplicate: true });
    return;
  }
  res.setHeader('Retry-After', String(retryAfterSeconds(job, job.created_at) ?? 1));
  res.status(202).json(presentJob(job, [], []));
}
