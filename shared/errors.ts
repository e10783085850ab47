/**
 * The one table of everything that can go wrong on purpose: code → HTTP status → may the same request
 * succeed later? → what it means. The API serves each code as a page at `/problems/{code}` and
 * docs/errors.md is generated from here. Codes are public API: they are never renamed.
 */
export const errorTable = {
  // The request
  'bad-request': { status: 400, retryable: false, title: 'The request is malformed' },
  'invalid-json': { status: 400, retryable: false, title: 'The body is not valid JSON' },
  'invalid-cursor': {
    status: 400,
    retryable: false,
    title: 'The cursor is not one of ours, or belongs to another filter',
  },
  'invalid-idempotency-key': {
    status: 400,
    retryable: false,
    title: 'The Idempotency-Key is not 1 to 255 visible ASCII characters',
  },
  'invalid-multipart': { status: 400, retryable: false, title: 'The multipart body is malformed' },
  'upload-incomplete': {
    status: 400,
    retryable: true,
    title: 'The upload ended before all of it had arrived',
  },
  'digest-mismatch': {
    status: 400,
    retryable: true,
    title: 'The bytes received do not have the digest that was announced',
  },
  unauthorized: { status: 401, retryable: false, title: 'A valid API key is needed' },
  forbidden: { status: 403, retryable: false, title: 'The API key does not have the scope for this call' },
  'not-found': { status: 404, retryable: false, title: 'There is nothing here for this API key' },
  'method-not-allowed': { status: 405, retryable: false, title: 'This resource does not know the method' },
  'request-timeout': { status: 408, retryable: true, title: 'The request arrived too slowly' },
  'job-final': { status: 409, retryable: false, title: 'The job has ended already' },
  'job-not-final': { status: 409, retryable: true, title: 'The job has not ended' },
  'job-not-failed': { status: 409, retryable: false, title: 'Only a job that failed can be retried' },
  'unique-key-held': { status: 409, retryable: true, title: 'Another job has the unique key of the job' },
  'job-failed': { status: 409, retryable: false, title: 'The job failed, so it has no result' },
  'job-cancelled': { status: 409, retryable: false, title: 'The job was cancelled, so it has no result' },
  'job-in-use': {
    status: 409,
    retryable: true,
    title: 'A job that has not ended waits for the job, or takes from its result',
  },
  'file-in-use': {
    status: 409,
    retryable: true,
    title: 'A job that has not ended, or a schedule, refers to the file',
  },
  'too-many-schedules': {
    status: 409,
    retryable: false,
    title: 'The tenant has as many schedules as it may have',
  },
  'workflow-final': { status: 409, retryable: false, title: 'The workflow has ended already' },
  'workflow-running': { status: 409, retryable: true, title: 'The workflow has not ended' },
  'nothing-to-retry': { status: 409, retryable: false, title: 'Every step of the workflow has succeeded' },
  'last-admin-key': { status: 409, retryable: false, title: 'This is the last admin key' },
  'result-expired': {
    status: 410,
    retryable: false,
    title: 'The result was deleted when its retention ended',
  },
  'input-expired': {
    status: 410,
    retryable: false,
    title: 'The input of the job was deleted when its retention ended',
  },
  'precondition-failed': { status: 412, retryable: false, title: 'A condition of the request does not hold' },
  'content-too-large': {
    status: 413,
    retryable: false,
    title: 'The body, or a part of it, is over its limit',
  },
  'unsupported-media-type': {
    status: 415,
    retryable: false,
    title: 'The Content-Type is not one that this call takes',
  },
  'range-not-satisfiable': { status: 416, retryable: false, title: 'The range lies outside the file' },
  'invalid-input': { status: 422, retryable: false, title: 'The request does not fit the schema' },
  'unknown-task': { status: 422, retryable: false, title: 'There is no task of this name' },
  'file-not-found': { status: 422, retryable: false, title: 'The job refers to a file that does not exist' },
  'parent-not-found': {
    status: 422,
    retryable: false,
    title: 'The job waits for a job that does not exist',
  },
  'idempotency-mismatch': {
    status: 422,
    retryable: false,
    title: 'The Idempotency-Key was used before with another request',
  },
  'rate-limited': { status: 429, retryable: true, title: 'Too many requests' },
  'too-many-uploads': { status: 429, retryable: true, title: 'Too many uploads at once' },
  'too-many-waiting': { status: 429, retryable: true, title: 'Too many jobs of the tenant are waiting' },
  'headers-too-large': { status: 431, retryable: false, title: 'The request headers are over their limit' },
  internal: { status: 500, retryable: true, title: 'Something went wrong on our side' },
  unavailable: { status: 503, retryable: true, title: 'The service cannot do this right now' },
  'backlog-full': { status: 503, retryable: true, title: 'Too many jobs are waiting' },
  'storage-full': { status: 507, retryable: true, title: 'There is no room to store the file' },
  'quota-full': { status: 507, retryable: true, title: 'The tenant has stored as many bytes as it may' },
  // How a job can end (`error.code` of a failed job); the status is that of GET …/result
  'task-failed': { status: 409, retryable: true, title: 'The task threw an error' },
  'task-input': { status: 409, retryable: false, title: 'The task cannot use this input' },
  'task-not-now': { status: 409, retryable: true, title: 'The task asked to be run later' },
  'task-timeout': { status: 409, retryable: true, title: 'The task ran longer than its time limit' },
  'task-output': {
    status: 409,
    retryable: false,
    title: 'The task returned something that is not its declared result',
  },
  'result-too-large': { status: 409, retryable: false, title: 'The result of the task is over its limit' },
  'input-missing': { status: 409, retryable: false, title: 'A file that the job needs no longer exists' },
  'parent-failed': { status: 409, retryable: false, title: 'A job that it waited for did not succeed' },
  'too-many-items': { status: 409, retryable: false, title: 'The list of the step has too many items' },
  'item-failed': { status: 409, retryable: false, title: 'An item of the step did not succeed' },
  'effect-unknown': {
    status: 409,
    retryable: false,
    title: 'It is unknown whether an effect outside took place',
  },
  expired: { status: 409, retryable: true, title: 'No attempt could begin within the time that the job had' },
  crashed: { status: 409, retryable: true, title: 'The process that ran the task died' },
} as const satisfies Record<string, { status: number; retryable: boolean; title: string }>;

export type ErrorCode = keyof typeof errorTable;

/** One thing wrong with a request; `pointer` is an RFC 6901 JSON Pointer into the body. */
export interface FieldError {
  readonly pointer: string;
  readonly detail: string;
}

/**
 * An error with a public face. Three audiences, three fields: `code` for programs, `message` for the
 * caller (it becomes `detail`), `cause` for our logs.
 */
export class AppError extends Error {
  override name = 'AppError';
  readonly code: ErrorCode;
  readonly errors: readonly FieldError[] | undefined;
  /** Seconds after which the caller may try again (`Retry-After`). */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; errors?: readonly FieldError[]; retryAfterSeconds?: number } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.errors = options.errors;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }

  get status(): number {
    return errorTable[this.code].status;
  }
}

export function assertNever(value: never): never {
  throw new Error(`Unexpected value: ${JSON.stringify(value)}`);
}
