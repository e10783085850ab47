import { createHash } from 'node:crypto';
import { z } from 'zod';
import { insertStreamBatch } from '#shared/db/batches.ts';
import { findIdempotencyKey } from '#shared/db/idempotency.ts';
import { AppError, type ErrorCode } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { notInBatch, refuseOptions } from '../../accept-batch.ts';
import { acceptJob, mismatch } from '../../accept-job.ts';
import type { ApiDeps } from '../../deps.ts';
import { createAnswerLines } from '../../http/answer-lines.ts';
import type { Identity, RouteContext } from '../../http/define-route.ts';
import { toKnownError } from '../../http/error-handler.ts';
import { toProblem } from '../../http/problem.ts';
import { checkJson, invalidInput, parseWith } from '../../http/read-json.ts';
import { readLines, type Line } from '../../http/read-lines.ts';
import { isIdempotencyKey, readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { paceBody } from '../../http/upload-pace.ts';
import { readRestOfRefused } from '../../http/upload-refusal.ts';
import { checkEncoding } from '../../http/upload.ts';
import { newJob } from './create-job.ts';

export const streamLine = newJob
  .extend({
    key: z
      .string()
      .optional()
      .describe('Like an Idempotency-Key, for this job. Not together with an Idempotency-Key of the stream.'),
  })
  .meta({
    examples: [
      {
        task: 'image.resize',
        input: { file: '0199d7a3-1f5c-7cc0-8000-000000000000', width: 320 },
        key: 'order-7',
      },
    ],
  });

// As for a job that comes alone, options are checked together with the input.
const envelope = z.strictObject({
  task: z.string().max(1_000),
  input: z.unknown().optional(),
  options: z.unknown().optional(),
  key: z.string().refine(isIdempotencyKey, 'must be 1 to 255 visible ASCII characters').optional(),
});

/** Room for the number of a line beside it. */
const streamKeyLengthMax = 240;
/** What is no fault of the line: the stream ends there, and the client goes on later. */
const endsStream: ReadonlySet<ErrorCode> = new Set([
  'rate-limited',
  'backlog-full',
  'too-many-waiting',
  'unavailable',
]);

/**
 * Jobs as lines of JSON, each accepted by itself and answered by a line as soon as it is committed. What was answered is
 * accepted, whatever becomes of the connection. With an Idempotency-Key, line n is the same job however often the
 * stream is sent, so a stream that broke off is simply sent again.
 */
export async function streamBatch({
  deps,
  req,
  res,
  identity,
}: Pick<
  RouteContext<z.ZodUndefined, z.ZodUndefined, z.ZodUndefined>,
  'deps' | 'req' | 'res' | 'identity'
>): Promise<void> {
  const { config } = deps;
  const streamKey = readStreamKey(readIdempotencyKey(req));
  const traceparent = readTraceparent(req);
  checkEncoding(req);
  deps.backlog.check();
  const release = deps.uploads.takeSlot(identity.tenantId);
  try {
    const idleMs = config.WINDLASS_UPLOAD_IDLE_MS;
    const body = paceBody(req, { idleMs, rateMin: config.WINDLASS_UPLOAD_RATE_MIN });
    const lines = readLines(body, config.WINDLASS_JSON_BYTES_MAX);
    let line = await lines.next();
    if (line.done === true) throw invalidInput([{ pointer: '', detail: 'The stream has no line.' }]);
    const batchId = await openBatch(deps, identity, streamKey);

    // Whoever ends it early leaves lines unread.
    res.setHeader('Connection', 'close');
    res.setHeader('Location', `/v1/batches/${batchId}`);
    res.setHeader('X-Accel-Buffering', 'no');
    res.status(200).type('application/x-ndjson');
    res.flushHeaders();

    const answers = createAnswerLines(res, { idleMs });
    const counts = { accepted: 0, replayed: 0, refused: 0 };
    let problem: AppError | undefined;

    const accept = async ({ number, bytes }: Line): Promise<unknown> => {
      try {
        const { key, ...job } = readLine(deps, bytes);
        if (typeof job.options === 'object' && job.options !== null)
          refuseOptions({ ...job.options }, { uniqueKey: notInBatch, dependsOn: notInBatch });
        const { job: row, isReplayed } = await acceptJob(deps, identity, {
          ...job,
          newFiles: [],
          idempotencyKey: keyOf(number, key, streamKey),
          traceparent,
          batchId,
        });
        counts[isReplayed ? 'replayed' : 'accepted'] += 1;
        return { line: number, id: row.id, state: row.state, ...(isReplayed && { replayed: true }) };
      } catch (err) {
        const known = toKnownError(err);
        if (known.code === 'internal') deps.log.error({ batchId, err: known.cause }, 'a line failed');
        if (endsStream.has(known.code)) problem ??= known;
        counts.refused += 1;
        return { line: number, problem: toProblem(req, known) };
      }
    };

    try {
      for (let isFirst = true; line.done !== true && problem === undefined; isFirst = false) {
        const { value } = line;
        if (value.number > config.WINDLASS_BATCH_LINES_MAX)
          throw tooManyLines(config.WINDLASS_BATCH_LINES_MAX);
        if (deps.isStopping()) throw new AppError('unavailable', 'The api is stopping. Send the rest again.');
        // The request itself was the first.
        if (!isFirst) deps.rateLimiter.take(identity.tenantId, res);
        await answers.add(value.bytes?.length ?? 0, () => accept(value));
        line = await lines.next();
      }
    } catch (err) {
      problem ??= toKnownError(err);
    }
    // Those that are under way are answered in any case.
    await answers.written().catch(() => {});
    if (res.closed || res.destroyed) return;
    res.end(
      `${JSON.stringify({ batch: batchId, ...counts, ...(problem !== undefined && { problem: toProblem(req, problem) }) })}\n`,
    );
    if (problem !== undefined) readRestOfRefused(req);
    void lines.return();
  } finally {
    release();
  }
}

function readStreamKey(key: string | undefined): string | undefined {
  if (key === undefined || key.length <= streamKeyLengthMax) return key;
  throw new AppError(
    'invalid-idempotency-key',
    `The Idempotency-Key of a stream may have ${streamKeyLengthMax} characters.`,
  );
}

/** The key of a line: its own, or its number under that of the stream. No client's key has a space in it. */
function keyOf(number: number, key: string | undefined, streamKey: string | undefined): string | undefined {
  if (streamKey === undefined) return key;
  if (key === undefined) return `${streamKey} ${number}`;
  const detail = 'The stream has an Idempotency-Key, which counts for each line by its number.';
  throw invalidInput([{ pointer: '/key', detail }]);
}

function readLine(
  deps: ApiDeps,
  bytes: Buffer | undefined,
): { task: string; input: unknown; options: unknown; key: string | undefined } {
  const { config } = deps;
  if (bytes === undefined) {
    throw new AppError(
      'content-too-large',
      `The line is longer than ${config.WINDLASS_JSON_BYTES_MAX} bytes (WINDLASS_JSON_BYTES_MAX). Put large data into a file.`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (err) {
    throw new AppError(
      'invalid-json',
      `The line is not valid JSON: ${err instanceof Error ? err.message : String(err)}.`,
    );
  }
  checkJson(value, config);
  const { task, input = {}, options, key } = parseWith(envelope, value);
  return { task, input, options, key };
}

/** What every stream has in common; its lines are held against each other one by one. */
const streamFingerprint = createHash('sha256').update('application/x-ndjson').digest('hex');

/** @returns the id of the batch: a new one, or that which the same key began. */
async function openBatch(deps: ApiDeps, identity: Identity, key: string | undefined): Promise<string> {
  const idempotency = key === undefined ? undefined : { key, fingerprint: streamFingerprint };
  const made = await insertStreamBatch(deps.db, identity.tenantId, uuidv7(), idempotency);
  if (made !== undefined) return made.id;
  const known = await findIdempotencyKey(deps.db, identity.tenantId, key ?? '');
  if (known?.resource === 'batch' && known.fingerprint === streamFingerprint) return known.resource_id;
  throw mismatch(key ?? '');
}

function tooManyLines(max: number): AppError {
  return new AppError(
    'content-too-large',
    `More than ${max} lines (WINDLASS_BATCH_LINES_MAX). Send the rest as another stream.`,
  );
}
