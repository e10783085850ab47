import { setTimeout as sleep } from 'node:timers/promises';
import { toAppError } from '#shared/db/pool.ts';
import { AppError } from '#shared/errors.ts';

/**
 * Repeats `work` while Postgres does not answer, first after 0.1 s and then less and less often, at last every 2 s. An
 * outage is no reason to throw away what a run has done: nobody else can take its job meanwhile.
 * @param onOutage told of the first failure, and then of every tenth.
 * @throws what `work` failed with last: when it was something else, or when `isGivenUp` says so.
 */
export async function throughOutages<Value>(
  work: () => Promise<Value>,
  isGivenUp: () => boolean,
  onOutage: (err: unknown, tries: number) => void = () => {},
): Promise<Value> {
  for (let waitMs = 100, tries = 1; ; waitMs = Math.min(waitMs * 2, 2_000), tries += 1) {
    try {
      return await work();
    } catch (err) {
      if (!isOutage(err) || isGivenUp()) throw err;
      if (tries % 10 === 1) onOutage(err, tries);
      await sleep(waitMs);
    }
  }
}

/** Does another try make sense? Also after a commit whose answer was lost. */
export function isOutage(err: unknown): boolean {
  const known = toAppError(err);
  return known instanceof AppError && known.code === 'unavailable';
}
