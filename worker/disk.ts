/** What this worker does on disk for its runs, each in one go on a thread (shared/disk/disk-threads.ts). */
import type { DiskThreads } from '#shared/disk/disk-threads.ts';
import type { NewRun, RunDir } from './task-host/run-files.ts';

export type { RunDir };

/** The functions of task-host/run-files.ts; errors of the system keep their `code`. */
export interface Disk {
  prepareRun(task: NewRun): Promise<{ runDir: RunDir; missing: string[] }>;
  handOver(task: { runDir: RunDir; uid: number | undefined }): Promise<void>;
  readTaskFile(task: { path: string; bytesMax: number }): Promise<string | undefined>;
  /** Never rejects. @returns whether it is gone. */
  removeTree(dir: string, options?: { deadlineMs?: number }): Promise<boolean>;
}

export function createDisk(threads: DiskThreads): Disk {
  const call = threads.load<typeof import('./task-host/run-files.ts')>(
    new URL('./task-host/run-files.ts', import.meta.url),
  );
  return {
    prepareRun: (task) => call('prepareRun', task),
    handOver: (task) => call('handOver', task),
    readTaskFile: (task) => call('readTaskFile', task),
    // The threads are gone when the worker has ended; what is left then is the janitor's.
    removeTree: (dir, options) => call('removeTree', { dir, ...options }).catch(() => false),
  };
}
