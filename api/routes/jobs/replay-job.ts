import { createHash } from 'node:crypto';
import { z } from 'zod';
import { findIdempotencyKey } from '#shared/db/idempotency.ts';
import { canonicalJson } from '#shared/domain/json-limits.ts';
import { AppError } from '#shared/errors.ts';
import { acceptJob, answerAgain, type Accepted } from '../../accept-job.ts';
import { defineRoute, type RouteContext } from '../../http/define-route.ts';
import { isJson, parseWith } from '../../http/read-json.ts';
import { readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { optionsOf } from '#shared/tasks/options-of.ts';
import { jobSchema } from '../../present-job.ts';
import { answerAccepted, duplicateResponse } from './create-job.ts';
import { jobParams, loadJob } from './get-job.ts';
import { inputExpired } from './retry-job.ts';

const replayBody = z.strictObject({
  input: z
    .unknown()
    .optional()
    .describe('Instead of the input of the job, as a whole. Default: the same input.'),
  options: z
    .record(z.string(), z.unknown())
    .optional()
    .describe(
      'Options as in POST /v1/jobs. Those that are given replace those of the job; `delayMs`, `runAt`, `uniqueKey` and `dependsOn` of the job are not taken over.',
    ),
});

export const replayJob = defineRoute({
  method: 'post',
  path: '/v1/jobs/:id/replay',
  scope: 'submit',
  tag: 'Jobs',
  summary: 'Make a new job from one that there is',
  description:
    'From any job, whatever its state, with the same input and options or with others. Everything is checked as for a new job; files of the input must still be there. `replayOf` of the new job names the old one.',
  params: jobParams,
  headers: {
    'Idempotency-Key': 'Optional. The same key with the same content within 24 h gives the same job.',
    traceparent: 'Optional. W3C trace context, stored with the job.',
  },
  streams: { 'application/json': { description: 'Optional.', schema: replayBody } },
  responses: {
    200: duplicateResponse,
    202: {
      description: 'Accepted: the new job is stored and will run.',
      schema: jobSchema,
      headers: {
        Location: 'The new job.',
        'Retry-After': 'Seconds until asking makes sense.',
        'Idempotency-Replayed': '`true` when the key was used before.',
      },
    },
  },
  problems: [
    'not-found',
    'input-expired',
    'invalid-json',
    'invalid-idempotency-key',
    'content-too-large',
    'invalid-input',
    'unknown-task',
    'file-not-found',
    'idempotency-mismatch',
    'backlog-full',
    'too-many-waiting',
  ],
  async handle(ctx) {
    const { deps, req } = ctx;
    const key = readIdempotencyKey(req);
    const body = isJson(req) ? parseWith(replayBody, await deps.readJson(req)) : {};
    answerAccepted(ctx, await replay(ctx, body, key));
  },
});

async function replay(
  { deps, identity, params, req }: RouteContext<{ id: string }, unknown, unknown>,
  body: z.output<typeof replayBody>,
  key: string | undefined,
): Promise<Accepted> {
  // Of what the client sent; what a job was made from never changes.
  const fingerprint = createHash('sha256')
    .update(canonicalJson({ replayOf: params.id, ...body }))
    .digest('hex');
  try {
    const job = await loadJob(deps, identity.tenantId, params.id);
    if (job.purged_at !== null) throw inputExpired();
    return await acceptJob(deps, identity, {
      task: job.task,
      input: body.input === undefined ? job.input : body.input,
      options: { ...optionsOf(job), ...body.options },
      newFiles: [],
      idempotencyKey: key,
      traceparent: readTraceparent(req),
      replay: { of: job.id, fingerprint },
    });
  } catch (err) {
    // The job may be gone by now; the answer to a repetition stays what it was.
    const isGone = err instanceof AppError && (err.code === 'not-found' || err.code === 'input-expired');
    if (!isGone || key === undefined) throw err;
    if ((await findIdempotencyKey(deps.db, identity.tenantId, key)) === undefined) throw err;
    return answerAgain(deps, identity, key, fingerprint);
  }
}
