/** What this worker does on disk for its runs, each in one go on a thread (shared/disk/disk-threads.ts). */
import type { DiskThreads } from '#shared/disk/disk-threads.ts';
import type { RunDir } from './task-host/run-files.ts';

export type { RunDir };

/** The functions of task-host/run-files.ts; errors of the system keep their `code`. */
export interface Disk {
  makeRunDir(task: { hostDir: string; name: string }): Promise<RunDir>;
  handOver(task: { runDir: RunDir; uid: number | undefined }): Promise<void>;
  readTaskFile(task: { path: string; bytesMax: number }): Promise<string | undefined>;
  openTaskFile(path: string): Promise<{ fd: number; sizeBytes: number }>;
  /** Never rejects. @returns whether it is gone. */
  removeTree(dir: string, options?: { deadlineMs?: number }): Promise<boolean>;
}

export function createDisk(threads: DiskThreads): Disk {
  const call = threads.load<typeof import('./task-host/run-files.ts')>(
    new URL('./task-host/run-files.ts', import.meta.url),
  );
  return {
    makeRunDir: (task) => call('makeRunDir', task),
    handOver: (task) => call('handOver', task),
    readTaskFile: (task) => call('readTaskFile', task),
    openTaskFile: (path) => call('openTaskFile', path),
    // The threads are gone when the worker has ended; what is left then is the janitor's.
    removeTree: (dir, options) => call('removeTree', { dir, ...options }).catch(() => false),
  };
}
