/** What bulk actions have in common, whatever they do to the jobs of a page. */
import type { ErrorCode } from '../errors.ts';
import type { NewJob } from './accept-jobs.ts';
import type { JobRow } from './jobs.ts';

/** Why the action failed for a job that it fits. */
export interface JobProblem {
  readonly jobId: string;
  readonly code: ErrorCode;
  readonly message: string;
}

/** What became of a page. Jobs that are neither done nor have a problem were skipped. */
export interface PageOutcome extends BulkEffects {
  readonly done: number;
  readonly errors: readonly JobProblem[];
}

/** What others should be told of, once it is committed. */
export interface BulkEffects {
  /** Jobs that have ended here and now. */
  readonly ended?: readonly string[];
  /** Jobs that run, and were asked to end. */
  readonly asked?: readonly string[];
  /** So many jobs wait for a feeder. */
  readonly queued?: number;
  /** Files whose bytes must go. */
  readonly fileIds?: readonly string[];
}

/** A job that is to be made again. */
export type ReplayedRow = Pick<
  JobRow,
  'id' | 'tenant_id' | 'task' | 'input' | 'options' | 'priority' | 'tags' | 'attempts_max' | 'retention_ms'
> & { readonly is_purged: boolean };

/** What retries and replays have to know of tasks. */
export interface TaskRules {
  /** Ids of the files that an input refers to; undefined when clients cannot send such a task. */
  findFiles(task: string, input: unknown): readonly string[] | undefined;
  /** The new job, checked like one that a client sends, except for its files. */
  makeAgain(row: ReplayedRow): NewJob | JobProblem;
}
