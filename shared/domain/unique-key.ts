/**
 * Unique keys: while a job holds one, no second job with it is made (within its tenant and task). This is what a key asks for,
 * and when one is held; shared/db/unique-jobs.ts takes it.
 */
import { isFinal, type JobState } from './job.ts';

export interface UniqueKey {
  readonly key: string;
  /** What ends it. `expired`: only time, so the key outlives its job. */
  readonly until: 'started' | 'finished' | 'expired';
  /** It ends so long after the acceptance at the latest; null: never by time. */
  readonly ttlMs: number | null;
  /** A further request replaces the input of the job that waits, and puts it off. */
  readonly debounce: { readonly delayMs: number; readonly maxWaitMs: number } | null;
}

/** As clients write it (`options.uniqueKey`). */
export interface UniqueKeyOption {
  readonly key: string;
  readonly until?: 'started' | 'finished' | undefined;
  readonly ttlMs?: number | undefined;
  readonly mode?: 'debounce' | undefined;
  readonly delayMs?: number | undefined;
  readonly maxWaitMs?: number | undefined;
}

/** A burst that never ends still has its job run now and then. */
const debounceMaxWaits = 10;

export function toUniqueKey(option: UniqueKeyOption): UniqueKey {
  if (option.mode === 'debounce') {
    const delayMs = option.delayMs ?? 0;
    return {
      key: option.key,
      until: 'started',
      ttlMs: null,
      debounce: { delayMs, maxWaitMs: Math.max(delayMs, option.maxWaitMs ?? delayMs * debounceMaxWaits) },
    };
  }
  return {
    key: option.key,
    // Time alone: a window, also after the end of the job that was made in it.
    until: option.until ?? (option.ttlMs === undefined ? 'finished' : 'expired'),
    ttlMs: option.ttlMs ?? null,
    debounce: null,
  };
}

/** The job that has the key, as it is when nobody else can take it. */
export interface Holder {
  readonly until: UniqueKey['until'];
  readonly isExpired: boolean;
  readonly state: JobState;
  /** A run of it has begun, and was not put back by a worker that stopped. */
  readonly hasStarted: boolean;
}

/** @param holder undefined: the job has been deleted. */
export function isHeld(holder: Holder | undefined): boolean {
  if (holder === undefined || holder.isExpired) return false;
  if (holder.until === 'started') return isWaiting(holder);
  return holder.until === 'expired' || !isFinal(holder.state);
}

export function isWaiting({ state, hasStarted }: Holder): boolean {
  return !hasStarted && (state === 'scheduled' || state === 'blocked' || state === 'queued');
}
