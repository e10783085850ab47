import type { ItemPlace } from '../domain/for-each.ts';

/** What a handler is given beside its input, and all that it can reach. */
export interface TaskContext {
  readonly jobId: string;
  /** 1 for the first attempt. Interrupted and snoozed runs do not count. */
  readonly attempt: number;
  readonly tenantId: string;
  /**
   * Aborted when the job is cancelled, loses its lease, the worker shuts down, or shortly before the hard
   * time limit. A handler that ignores it is killed (SIGTERM, then SIGKILL) within 3 s.
   */
  readonly signal: AbortSignal;
  /**
   * Aborted when the soft time limit (`softTimeoutMs`) of the attempt has passed: finish with what there is and return it, or
   * throw. Nothing is stopped by it. Without a soft limit it is never aborted.
   */
  readonly softSignal: AbortSignal;
  /** Reports progress, 0 to 100, and what is being done. Call it as often as you like: writes are coalesced. */
  progress(percent: number, message?: string): void;
  /** Adds a line to the job's log (GET /v1/jobs/{id}/logs), at most WINDLASS_LOG_LINES_MAX lines of 1 KiB. */
  log(message: string): void;
  /**
   * The stored file that an input field refers to, already on disk and read-only.
   * @throws TypeError if `id` is not a file of this job's input.
   */
  file(id: string): InputFile;
  /**
   * Starts an output file: write to `path`, then put `id` into the result. Bytes are stored and the file becomes
   * visible together with the result, or not at all.
   */
  output(name: string, options: { mediaType: string }): OutputFile;
  /** An empty directory of this run for temporary files; deleted afterwards. */
  readonly scratchDir: string;
  /** What may come out. A run that goes beyond fails for good when it ends; a handler that looks can say so at once. */
  readonly limits: OutputLimits;
}

export interface OutputLimits {
  /** WINDLASS_OUTPUT_FILES_MAX */
  readonly outputFilesMax: number;
  /** WINDLASS_FILE_BYTES_MAX */
  readonly outputFileBytesMax: number;
  /** WINDLASS_RESULT_BYTES_MAX, of the result as JSON. */
  readonly resultBytesMax: number;
}

export interface InputFile {
  readonly id: string;
  readonly path: string;
  /** The name it was uploaded under; data, never a path. */
  readonly name: string;
  /** The media type that the client declared. The bytes may be something else. */
  readonly mediaType: string;
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

export interface OutputFile {
  readonly id: string;
  readonly path: string;
}

/** What a task with `isolation: 'inline'` has on top: it runs inside the worker and may use its services. */
export interface InlineTaskContext extends TaskContext {
  /** The settings of this task, by configuration name, for example `SMTP_URL`. */
  readonly settings: Readonly<Record<string, unknown>>;
  /**
   * Runs `action` and remembers, durably and per job, that it was begun and how it ended, so that a retry after a
   * crash does not repeat what has been done: a finished effect returns its recorded value without running.
   * When an earlier run began and never recorded an end, `onUnknown` decides: `repeat` runs it again (at
   * least once), `fail` throws EffectUnknownError (at most once). An `action` that throws `notDone` errors
   * (see `isNotDone`) clears the mark, so the next attempt may try again.
   */
  effect<Value>(
    key: string,
    options: { onUnknown: 'repeat' | 'fail'; isNotDone: (err: unknown) => boolean },
    action: () => Promise<Value>,
  ): Promise<Value>;
  /** A small durable memory of this task within the tenant, for example suppressed addresses. */
  readonly memory: {
    get(key: string): Promise<unknown>;
    set(key: string, value: unknown): Promise<void>;
  };
}

/** What the internal task `jobs.bulk` has on top. */
export interface BulkTaskContext extends InlineTaskContext {
  /**
   * Does the next page of a bulk action to the jobs of the tenant, and remembers in the same transaction how far it came:
   * a later run goes on there.
   */
  bulkStep(request: {
    readonly action: 'cancel' | 'retry' | 'delete' | 'replay';
    readonly q: string;
    /** Only jobs made until then (ISO 8601). */
    readonly asOf: string;
    readonly reason: string | undefined;
  }): Promise<BulkProgress>;
}

export interface BulkProgress {
  readonly isDone: boolean;
  /** Of the jobs that have to be looked at, in percent; a guess. */
  readonly percent: number;
  readonly matched: number;
  readonly done: number;
  readonly skipped: number;
  readonly failed: number;
  /** The first of those that failed. */
  readonly errors: readonly { readonly jobId: string; readonly code: string; readonly message: string }[];
}

/** What the internal task `workflow.each` has on top. */
export interface EachTaskContext extends InlineTaskContext {
  /**
   * Makes the jobs of the next items, and remembers in the same transaction how far it came: a later run goes on there. When all have
   * ended: their results. It does not return while the step has to wait for them, or has failed; the worker knows why.
   */
  eachStep(request: EachRequest): Promise<EachProgress>;
}

export interface EachRequest {
  readonly workflow: { readonly id: string; readonly step: string };
  readonly task: string;
  readonly items?: unknown;
  readonly input?: unknown;
  readonly places: readonly ItemPlace[];
  readonly options: Readonly<Record<string, unknown>>;
  readonly limit: number | null;
  readonly optionalItems: boolean;
  readonly previous: string | null;
}

export type EachProgress =
  | { readonly type: 'making'; readonly made: number; readonly total: number }
  /** In the order of the list; null for items that did not succeed. */
  | { readonly type: 'ended'; readonly results: readonly unknown[] };

/** Handlers of inline tasks read files through the same `file(id).path`. */
