/** How many workers a queue could use: the number that an autoscaler holds against what it has. */
export function desiredWorkers(queue: {
  /** Jobs that are ready and wait. */
  readonly backlog: number;
  /** Jobs that run. */
  readonly busy: number;
  readonly isPaused: boolean;
  /** Jobs, running or waiting, that one worker should have. */
  readonly jobsPerWorker: number;
}): number {
  // What waits in a paused queue would keep new workers waiting, too.
  const ready = queue.isPaused ? 0 : queue.backlog;
  return Math.ceil((ready + queue.busy) / Math.max(1, queue.jobsPerWorker));
}
