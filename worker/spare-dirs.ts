import { join } from 'node:path';
import type { Disk } from './disk.ts';

/**
 * Directories of runs that have ended, emptied, for the next runs of the same tenants: to make a directory and delete it is much of
 * what a short run costs the file system. Only those that were never another user's (`emptyTree`); and never for another tenant, since a
 * process that was left behind may have one open.
 */
export interface SpareDirs {
  /** @returns the path of an empty directory, which is the caller's now; undefined when there is none. */
  take(tenantId: string): string | undefined;
  /** @returns whether nothing is at `dir` any more; if not, it is to be removed. Never rejects. */
  keep(dir: string, tenantId: string): Promise<boolean>;
}

/** Of all tenants together; more than that are in use at once only where runs are long. */
const sparesMax = 32;

/** @param options.dir where they are kept, beside those in use. */
export function createSpareDirs({
  disk,
  dir,
}: {
  disk: Pick<Disk, 'emptyTree' | 'removeTree'>;
  dir: string;
}): SpareDirs {
  let count = 0;
  let spares: { path: string; tenantId: string }[] = [];
  return {
    take(tenantId) {
      const spare = spares.findLast((one) => one.tenantId === tenantId);
      spares = spares.filter((one) => one !== spare);
      return spare?.path;
    },
    async keep(used, tenantId) {
      count += 1;
      const path = join(dir, `spare-${count}`);
      if (!(await disk.emptyTree({ dir: used, to: path }))) return false;
      spares.push({ path, tenantId });
      const oldest = spares.length > sparesMax ? spares.shift() : undefined;
      if (oldest !== undefined) void disk.removeTree(oldest.path);
      return true;
    },
  };
}
