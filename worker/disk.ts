/** What this worker does on disk for its runs, each in one go on a thread (shared/disk/disk-threads.ts). */
import type { DiskThreads } from '#shared/disk/disk-threads.ts';
import type { NewRun } from './task-host/run-files.ts';

/** The functions of task-host/run-files.ts; errors of the system keep their `code`. */
export interface Disk {
  prepareRun(task: NewRun): Promise<string[]>;
  handOver(task: { dir: string; uid: number }): Promise<void>;
  readTaskFile(task: { path: string; bytesMax: number }): Promise<string | undefined>;
  /** Never rejects. @returns false when it is to be removed. */
  emptyTree(task: { dir: string; to: string }): Promise<boolean>;
  /** Never rejects. @returns whether it is gone. */
  removeTree(dir: string, options?: { deadlineMs?: number; isAbandoned?: boolean }): Promise<boolean>;
}

/** Of the threads of shared/disk/disk-threads.ts. */
const removersMax = 2;

export function createDisk(threads: DiskThreads): Disk {
  const call = threads.load<typeof import('./task-host/run-files.ts')>(
    new URL('./task-host/run-files.ts', import.meta.url),
  );
  let removing = 0;
  const waiting: (() => void)[] = [];
  /** Removing what a hostile task left takes as long as it likes: the other threads are for those who want to begin. */
  async function inTurn<Result>(remove: () => Promise<Result>): Promise<Result> {
    if (removing === removersMax) await new Promise<void>((resolve) => waiting.push(resolve));
    else removing += 1;
    try {
      return await remove();
    } finally {
      const next = waiting.shift();
      if (next === undefined) removing -= 1;
      else next();
    }
  }
  return {
    prepareRun: (task) => call('prepareRun', task),
    handOver: (task) => call('handOver', task),
    readTaskFile: (task) => call('readTaskFile', task),
    emptyTree: (task) => inTurn(() => call('emptyTree', task).catch(() => false)),
    removeTree: (dir, options) =>
      // The threads are gone when the worker has ended; what is left then is the janitor's.
      inTurn(() => call('removeTree', { dir, ...options }).catch(() => false)),
  };
}
