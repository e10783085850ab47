/**
 * The life of a job, as one pure table. Every UPDATE of `jobs.state` in shared/db names the states it starts
 * from, and job.test.ts holds those against this table.
 *
 *   scheduled ──due──▶ queued ──claim──▶ active ──▶ succeeded
 *   blocked ──parents done──▲              │ ├────▶ failed
 *                           │              │ └────▶ cancelled  (asked for while active)
 *                           ├──put back────┤
 *                           └─due─ retrying ◀──┘ error, crash, snooze
 *
 *   active ──waits for jobs that it has made──▶ blocked
 *
 *   any state that is not final ──cancel──▶ cancelled          failed ──retry──▶ queued
 *   any state that is neither final nor active ──not started in time──▶ failed
 */
export const jobStates = [
  'scheduled',
  'blocked',
  'queued',
  'active',
  'retrying',
  'succeeded',
  'failed',
  'cancelled',
] as const;

export type JobState = (typeof jobStates)[number];
export type FinalJobState = 'succeeded' | 'failed' | 'cancelled';

export const transitions: Readonly<Record<JobState, readonly JobState[]>> = {
  scheduled: ['queued', 'cancelled', 'failed'],
  blocked: ['queued', 'scheduled', 'cancelled', 'failed'],
  // `scheduled`: a worker that does not know the task puts the job back for a newer one.
  queued: ['active', 'scheduled', 'cancelled', 'failed'],
  // `blocked`: a step that has made the jobs of its items, and waits for them.
  active: ['succeeded', 'failed', 'cancelled', 'retrying', 'queued', 'blocked'],
  retrying: ['queued', 'cancelled', 'failed'],
  succeeded: [],
  // An explicit retry by an operator makes a new attempt.
  // `blocked`: it failed while it waited for others.
  failed: ['queued', 'blocked'],
  cancelled: [],
};

export function isFinal(state: JobState): state is FinalJobState {
  return state === 'succeeded' || state === 'failed' || state === 'cancelled';
}

export function canMove(from: JobState, to: JobState): boolean {
  return transitions[from].includes(to);
}

/** How one run of a handler ended, as the worker saw it. */
export type RunOutcome =
  | { readonly type: 'succeeded'; readonly result: unknown }
  | { readonly type: 'failed'; readonly error: JobError }
  | { readonly type: 'snoozed'; readonly error: JobError; readonly delayMs: number }
  /** The process that ran it died without being told to. */
  | { readonly type: 'crashed'; readonly error: JobError }
  /** It has made jobs and waits for them; it will run again when they have ended. */
  | { readonly type: 'waiting' }
  | { readonly type: 'cancelled' }
  /** The worker is shutting down, or had no slot for it: not the job's fault. */
  | { readonly type: 'interrupted' };

/** `error` of a job and of an attempt. `retryable`: another attempt may help. */
export interface JobError {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
}

/** What the rules need to know of a job to say what an outcome means for it. */
export interface RunPolicy {
  readonly attemptsUsed: number;
  readonly attemptsMax: number;
  readonly crashes: number;
  readonly crashesMax: number;
  readonly onCrash: 'retry' | 'fail';
  readonly backoff: {
    readonly type: 'exponential' | 'fixed';
    readonly delayMs: number;
    readonly maxMs: number;
  };
  readonly isCancelRequested: boolean;
}

/** The state after a run, and what to write with it. */
export interface Settlement {
  readonly state: JobState;
  readonly attemptsUsed: number;
  readonly crashes: number;
  /** Before it may run again; 0 for final states. */
  readonly delayMs: number;
  readonly error: JobError | undefined;
  /** As it is kept with the attempt. */
  readonly outcome: Exclude<RunOutcome['type'], 'waiting'>;
}

/**
 * Decides what an outcome means. Pure: the same decision serves the worker that saw the run end and the
 * reaper that finds its worker dead.
 * - A success counts even when a cancel was asked for in the meantime: what is done is done.
 * - A cancel that was asked for ends a job that did not succeed, whatever ended the run.
 * - Crashes use an attempt and are counted on their own, so that a poison job ends after `crashesMax` deaths.
 * - A snooze, an interruption and waiting for other jobs use no attempt.
 */
export function settle(
  outcome: RunOutcome,
  policy: RunPolicy,
  random: () => number = Math.random,
): Settlement {
  const base = {
    attemptsUsed: policy.attemptsUsed,
    crashes: policy.crashes,
    delayMs: 0,
    outcome: outcome.type === 'waiting' ? ('snoozed' as const) : outcome.type,
  };
  if (outcome.type === 'succeeded')
    return { ...base, state: 'succeeded', attemptsUsed: base.attemptsUsed + 1, error: undefined };
  if (outcome.type === 'cancelled' || policy.isCancelRequested) {
    return { ...base, state: 'cancelled', outcome: 'cancelled', error: undefined };
  }
  if (outcome.type === 'waiting') return { ...base, state: 'blocked', error: undefined };
  if (outcome.type === 'interrupted') return { ...base, state: 'queued', error: undefined };
  if (outcome.type === 'snoozed')
    return { ...base, state: 'retrying', delayMs: outcome.delayMs, error: outcome.error };

  const attemptsUsed = policy.attemptsUsed + 1;
  const crashes = policy.crashes + (outcome.type === 'crashed' ? 1 : 0);
  const isGivenUp =
    !outcome.error.retryable ||
    attemptsUsed >= policy.attemptsMax ||
    (outcome.type === 'crashed' && (policy.onCrash === 'fail' || crashes >= policy.crashesMax));
  if (isGivenUp) return { ...base, state: 'failed', attemptsUsed, crashes, error: outcome.error };
  // The first crash is most often a deploy or a lost machine: the job starts again at once.
  const delayMs =
    outcome.type === 'crashed' && crashes === 1 ? 0 : backoffDelayMs(policy.backoff, attemptsUsed, random);
  return { ...base, state: 'retrying', attemptsUsed, crashes, delayMs, error: outcome.error };
}

/**
 * Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): a uniform draw from zero to the ceiling, so that
 * jobs that failed together do not come back together.
 * @param attempt the number of the attempt that failed, from 1.
 */
export function backoffDelayMs(
  backoff: RunPolicy['backoff'],
  attempt: number,
  random: () => number = Math.random,
): number {
  const factor = backoff.type === 'exponential' ? 2 ** Math.min(attempt - 1, 40) : 1;
  const ceiling = Math.min(backoff.delayMs * factor, backoff.maxMs);
  return Math.round(random() * ceiling);
}
