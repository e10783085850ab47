/**
 * Accepting a list of jobs in one transaction. Each is checked like a job that comes alone; what is wrong with any of them
 * refuses all (`strict`), or only itself (`permissive`).
 */
import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { z } from 'zod';
import { crashPoint } from '#shared/crash-point.ts';
import { isMissingFileError, type NewJob } from '#shared/db/accept-jobs.ts';
import { acceptBatch as insertBatch, findBatch, type RefusedItem } from '#shared/db/batches.ts';
import { listMissingFiles } from '#shared/db/files.ts';
import { findIdempotencyKey } from '#shared/db/idempotency.ts';
import { canonicalJson } from '#shared/domain/json-limits.ts';
import { AppError, type FieldError } from '#shared/errors.ts';
import { uuidAfter, uuidv7, uuidv7WithRoom } from '#shared/ids.ts';
import type { JobOptions } from '#shared/tasks/job-options.ts';
import { toNewJob } from '#shared/tasks/new-job.ts';
import { checkJob, describeMissingFile, getTask, mismatch } from './accept-job.ts';
import type { ApiDeps } from './deps.ts';
import type { Identity } from './http/define-route.ts';
import { checkJson, invalidInput, parseWith } from './http/read-json.ts';
import type { ApiTask } from './task-catalog.ts';

export interface BatchRequest {
  readonly mode: 'strict' | 'permissive';
  /** As the client sent them. */
  readonly jobs: readonly unknown[];
  readonly onComplete: unknown;
  /** Is any of the jobs as large as a body of its own may not be? Only looked at when it is possible. */
  readonly mayBeTooLarge: boolean;
  readonly idempotencyKey: string | undefined;
  readonly traceparent: string | undefined;
}

export type BatchItem =
  | { readonly id: string; readonly state: 'queued' | 'scheduled' }
  | { readonly refusal: AppError };

export interface AcceptedBatch {
  readonly id: string;
  readonly createdAt: Date;
  /** In the order of the request. */
  readonly items: readonly BatchItem[];
  readonly onCompleteJobId: string | undefined;
  readonly isReplayed: boolean;
}

/** Most entries of `errors` in the refusal of a whole batch, and of the items that it names. */
const errorsMax = 100;
/** Files may be deleted between their check and the commit, but not every time. */
const triesMax = 3;
/** Other requests get their turn after so much checking. */
const turnMs = 10;

/** Options are checked together with the input, so that pointers in errors are the same for every way in. */
const itemSchema = z.strictObject({
  task: z.string().max(1_000),
  input: z.unknown().optional(),
  options: z.unknown().optional(),
});

/**
 * @throws AppError `invalid-input`, `unknown-task` or `file-not-found` that names every item at fault, up to a limit, when
 *   nothing is accepted; `idempotency-mismatch`, `backlog-full`, `too-many-waiting`, `unavailable`.
 */
export async function acceptBatch(
  deps: ApiDeps,
  identity: Identity,
  request: BatchRequest,
): Promise<AcceptedBatch> {
  deps.backlog.check();
  const { idempotencyKey } = request;
  const idempotency =
    idempotencyKey === undefined
      ? undefined
      : { key: idempotencyKey, fingerprint: await fingerprintOf(request) };
  try {
    const accepted = await acceptNew(deps, identity, request, idempotency);
    if (accepted !== undefined) return accepted;
  } catch (err) {
    // Files may be deleted once the jobs have ended; the answer to a repetition stays what it was.
    if (idempotency === undefined) throw err;
    if ((await findIdempotencyKey(deps.db, identity.tenantId, idempotency.key)) === undefined) throw err;
  }
  if (idempotency === undefined) throw new Error('A batch without a key was taken for a repetition.');
  return replay(deps, identity, request, idempotency);
}

/** @returns undefined when the key was used before. */
async function acceptNew(
  deps: ApiDeps,
  identity: Identity,
  request: BatchRequest,
  idempotency: { key: string; fingerprint: string } | undefined,
): Promise<AcceptedBatch | undefined> {
  const id = uuidv7WithRoom();
  const { jobs } = request;
  const drafts = await draftAll(deps, identity, request, id);
  const onComplete = draftOnComplete(deps, identity, request, uuidAfter(id, jobs.length + 1));
  for (let tries = 1; ; tries += 1) {
    await checkFiles(deps, identity, drafts, onComplete);
    const refused = drafts.flatMap((draft, index) =>
      'refusal' in draft ? [{ index, refusal: draft.refusal }] : [],
    );
    if (refused.length === jobs.length || (refused.length > 0 && request.mode === 'strict'))
      throw refuseAll(refused, jobs.length);
    const batch = {
      id,
      tenantId: identity.tenantId,
      jobs: drafts.flatMap((draft) => ('job' in draft ? [draft.job] : [])),
      refused: refused.map(toRefusedItem),
      onComplete,
      idempotency,
    };
    const release = await deps.quotas.waiting.take(
      identity.tenantId,
      batch.jobs.length + (onComplete === undefined ? 0 : 1),
    );
    try {
      const acceptance = await insertBatch(deps.db, batch, () => crashPoint('accept.before-commit'));
      crashPoint('accept.after-commit');
      if (acceptance.type === 'duplicate') return undefined;
      for (const delivery of acceptance.deliveries) deps.dispatcher.dispatch(delivery);
      return present(request, {
        id,
        createdAt: acceptance.createdAt,
        refused: batch.refused,
        onCompleteJobId: onComplete?.job.id,
        isReplayed: false,
      });
    } catch (err) {
      // A file was deleted between its check and the commit, which took nothing: the check says now which one.
      if (!isMissingFileError(err) || tries === triesMax) throw err;
    } finally {
      release();
    }
  }
}

type Draft = { readonly job: NewJob; readonly files: readonly FileRef[] } | { readonly refusal: AppError };

interface FileRef {
  readonly id: string;
  readonly pointer: string;
}

async function draftAll(
  deps: ApiDeps,
  identity: Identity,
  request: BatchRequest,
  batchId: string,
): Promise<Draft[]> {
  const drafts: Draft[] = [];
  let turnEndsMs = performance.now() + turnMs;
  for (const [index, item] of request.jobs.entries()) {
    drafts.push(draft(deps, identity, request, { item, index, batchId }));
    if (performance.now() < turnEndsMs) continue;
    await nextTurn();
    turnEndsMs = performance.now() + turnMs;
  }
  return drafts;
}

function draft(
  deps: ApiDeps,
  identity: Identity,
  { mayBeTooLarge, traceparent }: BatchRequest,
  { item, index, batchId }: { item: unknown; index: number; batchId: string },
): Draft {
  try {
    if (mayBeTooLarge) checkSize(item, deps.config.WINDLASS_JSON_BYTES_MAX);
    checkJson(item, deps.config);
    const { task: name, input = {}, options: given } = parseWith(itemSchema, item);
    const { task, options } = checkJob(deps, { task: name, input, options: given });
    refuseOptions(options, {
      uniqueKey: notInBatch,
      dependsOn: notInBatch,
    });
    const job = makeJob(deps, identity, { task, input, options, traceparent });
    const files = task.findFiles(input);
    return { job: { ...job, id: uuidAfter(batchId, index + 1), batchId }, files };
  } catch (err) {
    if (err instanceof AppError) return { refusal: withPrefix(err, `/jobs/${index}`) };
    throw err;
  }
}

/** A batch has an answer for each job that is made in it, and what is the job of another request has none. */
export const notInBatch = 'Not in a batch; send the job by itself (POST /v1/jobs).';

/** @throws AppError `invalid-input` that names each of these options that is given. */
export function refuseOptions(
  options: Readonly<Record<string, unknown>>,
  details: Readonly<Partial<Record<keyof JobOptions, string>>>,
): void {
  const errors = Object.entries(details)
    .filter(([option]) => options[option] !== undefined)
    .map(([option, detail]) => ({ pointer: `/options/${option}`, detail }));
  if (errors.length > 0) throw invalidInput(errors);
}

function makeJob(
  deps: ApiDeps,
  identity: Identity,
  request: { task: ApiTask; input: unknown; options: JobOptions; traceparent: string | undefined },
): NewJob {
  const { task, input, options, traceparent } = request;
  const job = toNewJob(task.definition, {
    tenantId: identity.tenantId,
    input,
    options,
    inputFiles: task.findFiles(input).map((file) => file.id),
    retentionMs: deps.config.WINDLASS_JOB_RETENTION_MS,
  });
  return { ...job, traceparent: traceparent ?? null };
}

function checkSize(item: unknown, bytesMax: number): void {
  if (Buffer.byteLength(JSON.stringify(item)) <= bytesMax) return;
  throw new AppError(
    'content-too-large',
    `The job is larger than ${bytesMax} bytes (WINDLASS_JSON_BYTES_MAX). Put large data into a file.`,
  );
}

interface OnComplete {
  readonly job: NewJob;
  readonly fillsBatch: boolean;
  readonly files: readonly FileRef[];
}

/** What `input.batch` looks like; the numbers are filled in when the job starts. */
const batchPlaceholder = { total: 0, succeeded: 0, failed: 0, cancelled: 0 };

function draftOnComplete(
  deps: ApiDeps,
  identity: Identity,
  request: BatchRequest,
  id: string,
): OnComplete | undefined {
  if (request.onComplete === undefined) return undefined;
  try {
    const { task: name, input = {}, options: given } = parseWith(itemSchema, request.onComplete);
    const task = getTask(deps, name);
    const isObject = typeof input === 'object' && input !== null && !Array.isArray(input);
    const fillsBatch = task.takesBatch && isObject && !('batch' in input);
    const filled = fillsBatch ? { ...input, batch: { id: uuidv7(), ...batchPlaceholder } } : input;
    const { options } = checkJob(deps, { task: name, input: filled, options: given });
    const notAtATime = 'It starts when the jobs of the batch have ended, not at a time.';
    const notByKey = 'Not for a job that waits for a batch.';
    refuseOptions(options, {
      delayMs: notAtATime,
      runAt: notAtATime,
      uniqueKey: notByKey,
      concurrencyKey: notByKey,
      dependsOn: 'It waits for the jobs of the batch.',
    });
    const job = makeJob(deps, identity, { task, input, options, traceparent: request.traceparent });
    return { job: { ...job, id }, fillsBatch, files: task.findFiles(input) };
  } catch (err) {
    if (err instanceof AppError) throw withPrefix(err, '/onComplete');
    throw err;
  }
}

/** Refuses the drafts whose files are not there; one query for all. @throws AppError when those of `onComplete` are not. */
async function checkFiles(
  deps: ApiDeps,
  identity: Identity,
  drafts: Draft[],
  onComplete: OnComplete | undefined,
): Promise<void> {
  const filesOf = (draft: Draft): readonly FileRef[] => ('files' in draft ? draft.files : []);
  const ids = [...drafts.flatMap(filesOf), ...(onComplete?.files ?? [])].map((file) => file.id);
  if (ids.length === 0) return;
  const missing = new Set(await listMissingFiles(deps.db, identity.tenantId, [...new Set(ids)]));
  if (missing.size === 0) return;
  for (const [index, draft] of drafts.entries()) {
    const refusal = refuseFiles(filesOf(draft), missing);
    if (refusal !== undefined) drafts[index] = { refusal: withPrefix(refusal, `/jobs/${index}`) };
  }
  const refusal = refuseFiles(onComplete?.files ?? [], missing);
  if (refusal !== undefined) throw withPrefix(refusal, '/onComplete');
}

function refuseFiles(files: readonly FileRef[], missing: ReadonlySet<string>): AppError | undefined {
  const errors = files.filter((file) => missing.has(file.id)).map(describeMissingFile);
  return errors[0] === undefined ? undefined : new AppError('file-not-found', errors[0].detail, { errors });
}

/** The same error about a part of a larger body. */
function withPrefix(err: AppError, prefix: string): AppError {
  const errors = (err.errors ?? [{ pointer: '', detail: err.message }]).map(({ pointer, detail }) => ({
    pointer: prefix + pointer,
    detail,
  }));
  // Its message begins with the pointer.
  return err.code === 'invalid-input'
    ? invalidInput(errors)
    : new AppError(err.code, err.message, { errors });
}

/** One problem for the whole batch: with the code that all refusals share, if they do. */
function refuseAll(refused: readonly { refusal: AppError }[], total: number): AppError {
  const codes = new Set(refused.map(({ refusal }) => refusal.code));
  const [code = 'invalid-input'] = codes.size === 1 ? codes : [];
  const errors: FieldError[] = refused.flatMap(({ refusal }) => refusal.errors ?? []).slice(0, errorsMax);
  return new AppError(
    code,
    `${refused.length} of ${total} jobs cannot be accepted, so none was. ${errors[0]?.pointer ?? ''}: ${errors[0]?.detail ?? ''}`,
    { errors },
  );
}

function toRefusedItem({ index, refusal }: { index: number; refusal: AppError }): RefusedItem {
  return { index, code: refusal.code, message: refusal.message, errors: refusal.errors ?? [] };
}

/** What makes two batches the same. Hashed item by item, so that other requests get their turn. */
async function fingerprintOf(request: BatchRequest): Promise<string> {
  const hash = createHash('sha256');
  hash.update(canonicalJson(['batch', request.mode, request.onComplete ?? null]));
  let turnEndsMs = performance.now() + turnMs;
  for (const item of request.jobs) {
    hash.update('\n').update(canonicalJson(item));
    if (performance.now() < turnEndsMs) continue;
    await nextTurn();
    turnEndsMs = performance.now() + turnMs;
  }
  return hash.digest('hex');
}

/** The key was used before: the same batch gets the same answer, another request is refused. */
async function replay(
  deps: ApiDeps,
  identity: Identity,
  request: BatchRequest,
  { key, fingerprint }: { key: string; fingerprint: string },
): Promise<AcceptedBatch> {
  const known = await findIdempotencyKey(deps.db, identity.tenantId, key);
  if (known === undefined)
    throw new AppError(
      'unavailable',
      'The Idempotency-Key expired at this very moment. Send the request again.',
      { retryAfterSeconds: 1 },
    );
  if (known.resource !== 'batch' || known.fingerprint !== fingerprint) throw mismatch(key);
  const row = await findBatch(deps.db, identity.tenantId, known.resource_id);
  if (row === undefined)
    throw new AppError('not-found', 'The batch that this Idempotency-Key made has been deleted.');
  return present(request, {
    id: row.id,
    createdAt: row.created_at,
    refused: row.refused,
    onCompleteJobId: row.on_complete_job_id ?? undefined,
    isReplayed: true,
  });
}

/**
 * The batch as it was at the moment of its acceptance: the first answer and every replay of it are made here, from the request
 * and from what never changes.
 */
function present(
  { jobs }: BatchRequest,
  { refused, ...batch }: Omit<AcceptedBatch, 'items'> & { refused: readonly RefusedItem[] },
): AcceptedBatch {
  const refusals = new Map(refused.map((item) => [item.index, item]));
  return {
    ...batch,
    items: jobs.map((item, index) => {
      const refusal = refusals.get(index);
      if (refusal !== undefined)
        return { refusal: new AppError(refusal.code, refusal.message, { errors: refusal.errors }) };
      return { id: uuidAfter(batch.id, index + 1), state: stateOf(item, batch.createdAt) };
    }),
  };
}

/** Of an item that was accepted, so it has the shape. */
function stateOf(item: unknown, createdAt: Date): 'queued' | 'scheduled' {
  const { delayMs = 0, runAt } = (item as { options?: { delayMs?: number; runAt?: string } }).options ?? {};
  return delayMs > 0 || (runAt !== undefined && new Date(runAt) > createdAt) ? 'scheduled' : 'queued';
}
