/**
 * Long polling: requests that wait for a job to end. Redis pub/sub wakes them; one query a second over all jobs
 * that are waited for is the floor, so that a lost message costs a second and no more.
 */
import { listFinal } from '#shared/db/jobs.ts';
import type { Db } from '#shared/db/pool.ts';

export interface JobWaiter {
  /** Resolves when the job has ended, the time is over, or the signal is aborted. Never rejects. */
  wait(jobId: string, waitMs: number, signal: AbortSignal): Promise<void>;
  /** A job has ended. */
  notify(jobId: string): void;
  stop(): void;
}

const pollMs = 1_000;

export function createJobWaiter(options: { db: Db }): JobWaiter {
  const { db } = options;
  const waiting = new Map<string, Set<() => void>>();

  function notify(jobId: string): void {
    for (const wake of waiting.get(jobId) ?? []) wake();
  }

  const timer = setInterval(() => {
    if (waiting.size === 0) return;
    listFinal(db, [...waiting.keys()]).then(
      (ended) => ended.forEach(notify),
      // Postgres is away; the next poll may work, and each wait ends by its own time.
      () => {},
    );
  }, pollMs);
  timer.unref();

  return {
    notify,
    wait(jobId, waitMs, signal) {
      return new Promise((resolve) => {
        const others = waiting.get(jobId) ?? new Set<() => void>();
        waiting.set(jobId, others);
        const done = () => {
          clearTimeout(limit);
          signal.removeEventListener('abort', done);
          others.delete(done);
          if (others.size === 0 && waiting.get(jobId) === others) waiting.delete(jobId);
          resolve();
        };
        const limit = setTimeout(done, waitMs);
        others.add(done);
        signal.addEventListener('abort', done);
        if (signal.aborted) done();
      });
    },
    stop() {
      clearInterval(timer);
      for (const wakes of waiting.values()) for (const wake of wakes) wake();
    },
  };
}
