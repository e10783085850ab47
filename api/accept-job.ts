/**
 * Accepting a job, whatever call it came by: checks that need no database, then files, then one commit, then (after the
 * answer) a hint to Redis. Whoever uploaded files for it hands them over; what is not accepted is deleted.
 */
import { createHash } from 'node:crypto';
import { crashPoint } from '#shared/crash-point.ts';
import { isMissingFileError, type Acceptance, type NewFile, type NewJob } from '#shared/db/accept-jobs.ts';
import { isMissingParentError, listMissingJobs } from '#shared/db/dependencies.ts';
import { listFilesOfJob, listMissingFiles, type FileRow } from '#shared/db/files.ts';
import { findIdempotencyKey } from '#shared/db/idempotency.ts';
import { findJob, listAttempts, type AttemptRow, type JobRow } from '#shared/db/jobs.ts';
import { findNearest } from '#shared/domain/find-nearest.ts';
import { canonicalJson } from '#shared/domain/json-limits.ts';
import { AppError, type FieldError } from '#shared/errors.ts';
import { findCeilingErrors, jobOptions, readDependsOn, type JobOptions } from '#shared/tasks/job-options.ts';
import { toNewJob } from '#shared/tasks/new-job.ts';
import type { ApiDeps } from './deps.ts';
import type { Identity } from './http/define-route.ts';
import { invalidInput, parseWith } from './http/read-json.ts';
import type { ApiTask } from './task-catalog.ts';

export interface JobRequest {
  readonly task: string;
  readonly input: unknown;
  /** As the client sent them. */
  readonly options: unknown;
  readonly newFiles: readonly Omit<NewFile, 'retentionMs'>[];
  readonly idempotencyKey: string | undefined;
  readonly traceparent: string | undefined;
  /** The schedule whose job it is, when a client asked for one right now. */
  readonly scheduleKey?: string;
  readonly batchId?: string;
  /** What makes two requests the same under one key, where it is not task, input, options and files. */
  readonly content?: unknown;
  readonly replay?: {
    /** The job that this one is made from. */
    readonly of: string;
    /** What makes two requests with one Idempotency-Key the same: the job, and what the client changed. */
    readonly fingerprint: string;
  };
}

export interface Accepted {
  /** The job as it was when it was accepted, also when this is a replay; but see `duplicate`. */
  readonly job: JobRow;
  readonly isReplayed: boolean;
  /** Not made by this request: it has the unique key that was asked for. As it is now, with what belongs to it. */
  readonly duplicate?: { readonly attempts: readonly AttemptRow[]; readonly files: readonly FileRow[] };
  /** The files that came with the request belong to a job now. */
  readonly hasTakenFiles: boolean;
}

/**
 * @throws AppError `unknown-task`, `invalid-input`, `file-not-found`, `idempotency-mismatch`, `backlog-full`, `too-many-waiting`,
 *   `unavailable`; AmbiguousCommitError when only a later look can tell (new bytes must stay then).
 */
export async function acceptJob(
  deps: ApiDeps,
  identity: Identity,
  request: JobRequest,
  task: ApiTask = getTask(deps, request.task),
): Promise<Accepted> {
  const options = checkFit(task, request);
  deps.backlog.check();
  const { idempotencyKey } = request;
  const fingerprint =
    idempotencyKey === undefined ? undefined : (request.replay?.fingerprint ?? fingerprintOf(request));
  let inputFiles: string[];
  try {
    inputFiles = await checkFiles(deps, identity, task, request);
    await checkParents(deps, identity, options);
  } catch (err) {
    // Files, and jobs that it waited for, may be deleted once the job has ended; the answer to a repetition stays what it was.
    if (idempotencyKey === undefined || fingerprint === undefined) throw err;
    if ((await findIdempotencyKey(deps.db, identity.tenantId, idempotencyKey)) === undefined) throw err;
    return answerAgain(deps, identity, idempotencyKey, fingerprint);
  }

  const made = toNewJob(task.definition, {
    tenantId: identity.tenantId,
    input: request.input,
    options,
    inputFiles,
    retentionMs: deps.config.WINDLASS_JOB_RETENTION_MS,
  });
  const job: NewJob = {
    ...made,
    options: {
      ...made.options,
      ...(request.replay !== undefined && { replayOf: request.replay.of }),
    },
    traceparent: request.traceparent ?? null,
    scheduleKey: request.scheduleKey ?? null,
    batchId: request.batchId ?? null,
    newFiles: request.newFiles.map((file) => ({
      ...file,
      retentionMs: deps.config.WINDLASS_FILE_RETENTION_MS,
    })),
    idempotency:
      idempotencyKey === undefined || fingerprint === undefined ? null : { key: idempotencyKey, fingerprint },
  };
  crashPoint('accept.before-commit');
  const release = await deps.quotas.waiting.take(identity.tenantId, 1);
  let added: Awaited<ReturnType<typeof addJob>>;
  try {
    added = await addJob(deps, identity, job);
  } catch (err) {
    if (isMissingParentError(err))
      throw new AppError('parent-not-found', 'A job that it waits for was deleted just now.', { cause: err });
    if (isMissingFileError(err))
      throw new AppError('file-not-found', 'A file of the input was deleted just now.', { cause: err });
    throw err;
  } finally {
    release();
  }
  const { acceptance, duplicate } = added;
  crashPoint('accept.after-commit');
  if (acceptance.type === 'duplicate')
    return answerAgain(deps, identity, idempotencyKey ?? '', fingerprint ?? '');
  if (acceptance.type === 'accepted' && acceptance.isDispatched)
    deps.dispatcher.dispatch({ jobId: job.id, fence: 0, queue: job.queue });
  if (acceptance.type === 'held') {
    if (duplicate === undefined)
      throw new AppError('unavailable', 'The job that had the unique key was deleted just now. Try again.', {
        retryAfterSeconds: 1,
      });
    return { ...duplicate, isReplayed: false, hasTakenFiles: acceptance.isReplaced };
  }
  return {
    isReplayed: false,
    hasTakenFiles: true,
    job: toAcceptedRow(job, acceptance.createdAt),
  };
}

/** Another try finds the key free, when the job that had it was deleted before it could be read for the answer. */
const heldTriesMax = 3;

async function addJob(
  deps: ApiDeps,
  identity: Identity,
  job: NewJob,
): Promise<{ acceptance: Acceptance; duplicate?: Awaited<ReturnType<typeof findDuplicate>> }> {
  for (let tries = 1; ; tries += 1) {
    const acceptance = await deps.accepts.add(job);
    if (acceptance.type !== 'held') return { acceptance };
    const duplicate = await findDuplicate(deps, identity, acceptance.jobId);
    // What it replaced has taken its files, and they are gone with the job.
    if (duplicate !== undefined || acceptance.isReplaced || tries === heldTriesMax)
      return { acceptance, duplicate };
  }
}

/**
 * What can be said of a job without the database: its task is known, input and options fit it.
 * @throws AppError `unknown-task`, `invalid-input`.
 */
export function checkJob(
  deps: ApiDeps,
  request: Pick<JobRequest, 'task' | 'input' | 'options'>,
): { task: ApiTask; options: JobOptions } {
  const task = getTask(deps, request.task);
  return { task, options: checkFit(task, request) };
}

const noOptions: JobOptions = jobOptions.parse({});

function checkFit({ definition }: ApiTask, request: Pick<JobRequest, 'input' | 'options'>): JobOptions {
  parseWith(definition.input, request.input, '/input');
  const given = request.options ?? undefined;
  const options = given === undefined ? noOptions : parseWith(jobOptions, given, '/options');
  const errors = findCeilingErrors(options, definition);
  if (errors.length > 0) throw invalidInput(errors);
  return options;
}

export function getTask(deps: ApiDeps, name: string): ApiTask {
  const task = deps.tasks.get(name);
  if (task !== undefined) return task;
  const nearest = findNearest(name, deps.tasks.keys());
  const hint = nearest === undefined ? 'GET /v1/tasks lists all.' : `Did you mean "${nearest}"?`;
  throw new AppError('unknown-task', `There is no task "${name.slice(0, 100)}". ${hint}`, {
    errors: [{ pointer: '/task', detail: hint }],
  });
}

/** Every file of the input exists and is the caller's. @returns their ids. @throws AppError `file-not-found`. */
export async function checkFiles(
  deps: ApiDeps,
  identity: Identity,
  task: ApiTask,
  request: Pick<JobRequest, 'input' | 'newFiles'>,
): Promise<string[]> {
  const refs = task.findFiles(request.input);
  const uploaded = new Set(request.newFiles.map((file) => file.id));
  const stored = refs.filter((ref) => !uploaded.has(ref.id));
  if (stored.length > 0) {
    const missing = new Set(
      await listMissingFiles(
        deps.db,
        identity.tenantId,
        stored.map((ref) => ref.id),
      ),
    );
    const errors = stored.filter((ref) => missing.has(ref.id)).map(describeMissingFile);
    if (errors[0] !== undefined) throw new AppError('file-not-found', errors[0].detail, { errors });
  }
  return refs.map((ref) => ref.id);
}

export function describeMissingFile(ref: { id: string; pointer: string }): FieldError {
  return {
    pointer: `/input${ref.pointer}`,
    detail: `There is no file ${ref.id}. Upload it first (POST /v1/files), or send it with the job as multipart.`,
  };
}

/** Every job that it waits for exists and is the caller's. @throws AppError `parent-not-found`, naming those that do not. */
async function checkParents(deps: ApiDeps, identity: Identity, options: JobOptions): Promise<void> {
  const ids = readDependsOn(options).map((edge) => edge.parentId);
  if (ids.length === 0) return;
  const missing = new Set(await listMissingJobs(deps.db, identity.tenantId, ids));
  const errors = (options.dependsOn ?? []).flatMap((item, index) => {
    const id = (typeof item === 'string' ? item : item.job).toLowerCase();
    return missing.has(id)
      ? [{ pointer: `/options/dependsOn/${index}`, detail: `There is no job ${id}.` }]
      : [];
  });
  if (errors[0] !== undefined) throw new AppError('parent-not-found', errors[0].detail, { errors });
}

/**
 * What makes two requests the same: task, input, options, and the name and bytes of each new file. Ids of new files
 * differ from one try to the next and are replaced by their digests.
 */
function fingerprintOf(request: JobRequest): string {
  // Asking a schedule for a job stays the same request when the schedule has changed meanwhile.
  if (request.scheduleKey !== undefined) return digest(canonicalJson({ schedule: request.scheduleKey }));
  const files = request.newFiles.map((file) => ({ name: file.name, sha256: file.sha256 }));
  let text = canonicalJson(
    request.content ?? {
      task: request.task,
      input: request.input,
      options: request.options ?? {},
      files,
    },
  );
  for (const file of request.newFiles) text = text.replaceAll(file.id, file.sha256);
  return digest(text);
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** The key was used before: the same request gets the same answer, another one is refused. */
export async function answerAgain(
  deps: ApiDeps,
  identity: Identity,
  key: string,
  fingerprint: string,
): Promise<Accepted> {
  const known = await deps.replays.add({ tenantId: identity.tenantId, key });
  if (known === undefined)
    throw new AppError(
      'unavailable',
      'The Idempotency-Key expired at this very moment. Send the request again.',
      { retryAfterSeconds: 1 },
    );
  if (known.resource !== 'job' || known.fingerprint !== fingerprint) throw mismatch(key);
  if (known.is_duplicate) {
    const duplicate = await findDuplicate(deps, identity, known.resource_id);
    if (duplicate === undefined)
      throw new AppError(
        'not-found',
        'The job that this Idempotency-Key was answered with has been deleted.',
      );
    return { ...duplicate, isReplayed: true, hasTakenFiles: false };
  }
  if (known.job === undefined)
    throw new AppError('not-found', 'The job that this Idempotency-Key made has been deleted.');
  return { isReplayed: true, hasTakenFiles: false, job: asAccepted(known.job) };
}

/** The job that won, for whoever lost; undefined when it has been deleted. */
async function findDuplicate(
  { db }: ApiDeps,
  { tenantId }: Identity,
  id: string,
): Promise<Required<Pick<Accepted, 'job' | 'duplicate'>> | undefined> {
  const [job, attempts, files] = await Promise.all([
    findJob(db, tenantId, id),
    listAttempts(db, tenantId, id),
    listFilesOfJob(db, tenantId, id),
  ]);
  return job && { job, duplicate: { attempts, files } };
}

export function mismatch(key: string): AppError {
  return new AppError(
    'idempotency-mismatch',
    `The Idempotency-Key "${key}" was used for another request within the last day. Use a new key for new content.`,
  );
}

/** The row of a job that was just accepted, without reading it back. */
function toAcceptedRow(job: NewJob, createdAt: Date): JobRow {
  const base = {
    id: job.id,
    tenant_id: job.tenantId,
    task: job.task,
    queue: job.queue,
    priority: job.priority,
    input: job.input,
    options: job.options,
    tags: job.tags,
    attempts_max: job.attemptsMax,
    schedule_key: job.scheduleKey,
    batch_id: job.batchId,
    workflow_id: job.workflow?.id ?? null,
    workflow_step: job.workflow?.step ?? null,
    created_at: createdAt,
    retention_ms: job.retentionMs,
  };
  return asAccepted(base);
}

/**
 * The job as it was at the moment of its acceptance: the first answer and every replay of it are made here, from
 * what never changes.
 */
function asAccepted(
  row: Pick<
    JobRow,
    | 'id'
    | 'tenant_id'
    | 'task'
    | 'queue'
    | 'priority'
    | 'input'
    | 'options'
    | 'tags'
    | 'attempts_max'
    | 'schedule_key'
    | 'batch_id'
    | 'workflow_id'
    | 'workflow_step'
    | 'created_at'
    | 'retention_ms'
  >,
): JobRow {
  const { delayMs, runAt, startWithinMs, dependsOn } = row.options as {
    delayMs?: number;
    runAt?: string;
    startWithinMs?: number;
    dependsOn?: JobOptions['dependsOn'];
  };
  const due = runAt === undefined ? new Date(row.created_at.getTime() + (delayMs ?? 0)) : new Date(runAt);
  const isLater = due > row.created_at;
  return {
    ...row,
    state: dependsOn !== undefined && dependsOn.length > 0 ? 'blocked' : isLater ? 'scheduled' : 'queued',
    run_at: isLater ? due : row.created_at,
    fence: 0,
    result: null,
    error: null,
    progress: null,
    worker_id: null,
    each_index: null,
    cancel_requested_at: null,
    cancel_reason: null,
    started_at: null,
    finished_at: null,
    expires_at: null,
    purged_at: null,
    start_before: startWithinMs === undefined ? null : new Date(due.getTime() + startWithinMs),
  };
}
