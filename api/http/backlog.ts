import { countWaiting } from '#shared/db/jobs.ts';
import type { Db } from '#shared/db/pool.ts';
import { AppError } from '#shared/errors.ts';

export interface Backlog {
  /** @throws AppError `backlog-full`. */
  check(): void;
  stop(): void;
}

/**
 * Counts the waiting jobs now and then, never on the path of a request. Counting a long backlog takes time, so it is
 * counted the less often the longer it took (at most 5 % of the time).
 */
export function createBacklog(options: { db: Db; max: number }): Backlog {
  const { db, max } = options;
  let isFull = false;
  let timer: NodeJS.Timeout | undefined;

  async function measure(): Promise<void> {
    const startedMs = performance.now();
    await countWaiting(db, max).then(
      (count) => {
        isFull = count >= max;
      },
      // Postgres is away: accepting will say so itself.
      () => {},
    );
    timer = setTimeout(() => void measure(), Math.max(5_000, (performance.now() - startedMs) * 20));
    timer.unref();
  }
  void measure();

  return {
    check() {
      if (isFull) {
        throw new AppError(
          'backlog-full',
          `${max} or more jobs are waiting (WINDLASS_BACKLOG_MAX). Add workers, or try again later.`,
          { retryAfterSeconds: 30 },
        );
      }
    },
    stop: () => clearTimeout(timer),
  };
}
