import type { Disk } from '#worker/disk.ts';
import * as functions from '#worker/task-host/run-files.ts';

/** The worker's disk without its threads, which would have to be ended. */
export const blockingDisk: Disk = {
  prepareRun: async (task) => functions.prepareRun(task),
  handOver: async (task) => functions.handOver(task),
  readTaskFile: async (task) => functions.readTaskFile(task),
  emptyTree: async (task) => functions.emptyTree(task),
  removeTree: async (dir, options) => functions.removeTree({ dir, ...options }),
};
