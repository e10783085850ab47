/** The runs of this worker at this moment, and the ways to end them. */
import type { OwnedRun } from '#shared/db/workers.ts';

/**
 * Why a run is being stopped:
 * `cancelled` by a client · `superseded`, the job belongs to another run · `interrupted`, the worker shuts down ·
 * `timeout`, its time limit · `no-slot`, it was claimed and could not begin in time.
 */
export type StopReason = 'cancelled' | 'superseded' | 'interrupted' | 'timeout' | 'no-slot';

export interface Run extends OwnedRun {
  /** Names its directories: no other run of this worker has it, whatever its job and fence. */
  readonly name: string;
  readonly task: string;
  readonly startedMs: number;
  readonly signal: AbortSignal;
  /** Aborted at the soft time limit, which stops nothing. */
  readonly softSignal: AbortSignal;
  /** The soft time limit has passed. */
  warn(): void;
  /** The first reason stays. */
  stop(reason: StopReason): void;
  stopReason(): StopReason | undefined;
}

export interface Runs {
  /** An earlier run of the same job on this worker is told to stop: its job was claimed again. */
  start(run: OwnedRun & { task: string }): Run;
  end(run: Run): void;
  list(): readonly Run[];
  find(jobId: string): Run | undefined;
  /** Runs that began in the last second per queue, for the window; resets the count. */
  takeDrain(): Record<string, number>;
  countBegun(queue: string): void;
}

export function createRuns(): Runs {
  const runs = new Map<string, Run>();
  let drain: Record<string, number> = {};
  let started = 0;
  return {
    start({ jobId, fence, workerId, task }) {
      runs.get(jobId)?.stop('superseded');
      started += 1;
      const [controller, soft] = [new AbortController(), new AbortController()];
      let reason: StopReason | undefined;
      const run: Run = {
        jobId,
        fence,
        workerId,
        name: `${jobId}-${fence}-${started}`,
        task,
        startedMs: performance.now(),
        signal: controller.signal,
        softSignal: soft.signal,
        warn: () => soft.abort(new Error('The soft time limit has passed.')),
        stop(why) {
          if (reason !== undefined) return;
          reason = why;
          controller.abort(why);
        },
        stopReason: () => reason,
      };
      runs.set(jobId, run);
      return run;
    },
    end(run) {
      // A later run of the same job on this worker has its own entry.
      if (runs.get(run.jobId) === run) runs.delete(run.jobId);
    },
    list: () => [...runs.values()],
    find: (jobId) => runs.get(jobId),
    takeDrain() {
      const taken = drain;
      drain = {};
      return taken;
    },
    countBegun(queue) {
      drain[queue] = (drain[queue] ?? 0) + 1;
    },
  };
}
