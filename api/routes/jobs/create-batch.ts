import type { Request } from 'express';
import { z } from 'zod';
import { AppError } from '#shared/errors.ts';
import { acceptBatch, type AcceptedBatch } from '../../accept-batch.ts';
import { defineRoute } from '../../http/define-route.ts';
import { problemSchema, toProblem } from '../../http/problem.ts';
import { checkJson, invalidInput, parseWith } from '../../http/read-json.ts';
import { readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { batchLinks, linksOf } from '../../present-batch.ts';
import { newJob } from './create-job.ts';
import { streamBatch, streamLine } from './stream-batch.ts';

const exampleId = '0199d7a3-1f5c-7cc0-8000-000000000000';

const newBatch = z
  .strictObject({
    jobs: z
      .array(newJob)
      .min(1)
      .describe('Each as in POST /v1/jobs; at most WINDLASS_BATCH_ITEMS_MAX (1,000).'),
    mode: z
      .enum(['strict', 'permissive'])
      .default('strict')
      .describe('`strict`: all jobs are accepted, or none. `permissive`: those that are right.'),
    onComplete: newJob
      .optional()
      .describe(
        'A job that starts when all others have ended, whatever their end. If the input of its task has a field `batch` and none is given here, that becomes `{id, total, succeeded, failed, cancelled}`.',
      ),
  })
  .meta({
    examples: [
      {
        jobs: [
          { task: 'image.resize', input: { file: exampleId, width: 320 } },
          { task: 'image.resize', input: { file: exampleId, width: 64 } },
        ],
      },
    ],
  });

// The jobs are checked one by one, each against its task.
const envelope = z.strictObject({
  jobs: z.array(z.unknown()).min(1),
  mode: newBatch.shape.mode,
  onComplete: z.unknown().optional(),
});

const acceptedBatch = z
  .object({
    id: z.uuid(),
    createdAt: z.iso.datetime(),
    accepted: z.int(),
    refused: z.int(),
    items: z
      .array(
        z.union([
          z.object({
            index: z.int(),
            id: z.uuid(),
            state: z.enum(['queued', 'scheduled']),
            location: z.string(),
          }),
          z.object({ index: z.int(), problem: problemSchema }),
        ]),
      )
      .describe('One for each job, in the order of the request.'),
    onComplete: z.object({ id: z.uuid(), location: z.string() }).nullable(),
    links: batchLinks,
  })
  .meta({ id: 'AcceptedBatch' });

export const createBatch = defineRoute({
  method: 'post',
  path: '/v1/jobs/batch',
  scope: 'submit',
  tag: 'Jobs',
  summary: 'Queue many jobs',
  description:
    'As JSON: accepts all jobs in one transaction, or (`permissive`) those that are right. As NDJSON: accepts line by line, and answers each with a line as soon as it is stored; read the answer while you send. Limits of a JSON body hold for each job.',
  headers: {
    'Idempotency-Key':
      'Optional. The same key with the same content within 24 h gives the same batch. Of a stream, each line has it with its number.',
    traceparent: 'Optional. W3C trace context, stored with each job.',
  },
  streams: {
    'application/json': { description: 'The jobs.', schema: newBatch },
    'application/x-ndjson': {
      description: 'A job on each line; at most WINDLASS_BATCH_LINES_MAX (100,000) lines.',
      schema: streamLine,
    },
  },
  responses: {
    200: {
      description: `Of NDJSON: a line for each line, in their order, \`{"line", "id", "state"}\` or \`{"line", "problem"}\`; \`"replayed": true\` for a job that was there. The last line is \`{"batch", "accepted", "replayed", "refused"}\`, with a \`problem\` when the stream was ended early. Without it the answer is not complete.`,
      contentType: 'application/x-ndjson',
      headers: { Location: 'The batch.' },
    },
    202: {
      description: 'Accepted: the jobs are stored and will run.',
      schema: acceptedBatch,
      headers: {
        Location: 'The batch.',
        'Retry-After': 'Seconds until asking makes sense.',
        'Idempotency-Replayed': '`true` when the key was used before.',
      },
    },
  },
  problems: [
    'invalid-json',
    'invalid-idempotency-key',
    'content-too-large',
    'unsupported-media-type',
    'invalid-input',
    'unknown-task',
    'file-not-found',
    'idempotency-mismatch',
    'backlog-full',
    'too-many-waiting',
    'too-many-uploads',
    'upload-incomplete',
    'request-timeout',
  ],
  async handle(ctx) {
    const { deps, req, res, identity } = ctx;
    if (/^application\/(?:x-)?ndjson\s*(?:;|$)/i.test(req.headers['content-type'] ?? '')) {
      await streamBatch(ctx);
      return;
    }
    const idempotencyKey = readIdempotencyKey(req);
    const { jobs, mode, onComplete } = readEnvelope(await deps.readBatch(req), deps.config);
    // The request itself was the first.
    if (jobs.length > 1) deps.rateLimiter.take(identity.tenantId, res, jobs.length - 1);
    const accepted = await acceptBatch(deps, identity, {
      jobs,
      mode,
      onComplete,
      mayBeTooLarge: mayHoldMoreThan(req, deps.config.WINDLASS_JSON_BYTES_MAX),
      idempotencyKey,
      traceparent: readTraceparent(req),
    });
    if (accepted.isReplayed) res.setHeader('Idempotency-Replayed', 'true');
    res.setHeader('Location', `/v1/batches/${accepted.id}`);
    res.setHeader('Retry-After', '1');
    res.status(202).json(present(req, accepted));
  },
});

/** @throws AppError for what is wrong with the batch itself; its jobs are looked at later. */
function readEnvelope(body: unknown, config: Parameters<typeof checkJson>[1]): z.output<typeof envelope> {
  if (typeof body === 'object' && body !== null && 'jobs' in body && Array.isArray(body.jobs)) {
    const { jobs, ...rest } = body;
    const max = config.WINDLASS_BATCH_ITEMS_MAX;
    if (jobs.length > max) {
      const hint = 'Send them as NDJSON, or in several batches.';
      throw new AppError('content-too-large', `More than ${max} jobs (WINDLASS_BATCH_ITEMS_MAX). ${hint}`);
    }
    checkJson(rest, config);
  } else {
    // Not a batch, so no larger than one job may be.
    checkJson(body, config);
  }
  const parsed = parseWith(envelope, body);
  if (parsed.onComplete === null)
    throw invalidInput([{ pointer: '/onComplete', detail: 'Leave it out, or give a job.' }]);
  return parsed;
}

/** Could one part of the body be that large? Bodies without a length, or packed, could. */
function mayHoldMoreThan(req: Request, bytes: number): boolean {
  const length = req.headers['content-length'];
  return length === undefined || req.headers['content-encoding'] !== undefined || Number(length) > bytes;
}

function present(req: Request, batch: AcceptedBatch): z.input<typeof acceptedBatch> {
  const refused = batch.items.filter((item) => 'refusal' in item).length;
  return {
    id: batch.id,
    createdAt: batch.createdAt.toISOString(),
    accepted: batch.items.length - refused,
    refused,
    items: batch.items.map((item, index) =>
      'refusal' in item
        ? { index, problem: toProblem(req, item.refusal) }
        : { index, id: item.id, state: item.state, location: `/v1/jobs/${item.id}` },
    ),
    onComplete:
      batch.onCompleteJobId === undefined
        ? null
        : { id: batch.onCompleteJobId, location: `/v1/jobs/${batch.onCompleteJobId}` },
    links: linksOf(batch.id),
  };
}
