import { closeSync, constants, fstatSync, lchownSync, lstatSync, openSync, readlinkSync } from 'node:fs';

/**
 * Opens a file that somebody we do not trust has written, for reading, if it is a plain file where it should be: no link to
 * follow, no pipe to wait on. `path` must be without symbolic links, as the directories of worker/task-host/scratch.ts are.
 * @throws Error that says what it is instead; errors of the system keep their `code`.
 */
export function openPlainFile(path: string): { fd: number; sizeBytes: number } {
  if (!lstatSync(path).isFile()) throw new Error('it is not a plain file');
  const fd = openPrivate(path);
  try {
    const opened = fstatSync(fd);
    if (!opened.isFile()) throw new Error('it changed while it was being read');
    if (opened.nlink > 1) throw new Error('it is a hard link to another file');
    assertOpenedAt(fd, path);
    return { fd, sizeBytes: opened.size };
  } catch (err) {
    closeSync(fd);
    throw err;
  }
}

function openPrivate(path: string): number {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  try {
    return openSync(path, flags);
  } catch (err) {
    // A tool made it private to the host's user.
    const isPrivate =
      err instanceof Error && 'code' in err && (err.code === 'EACCES' || err.code === 'EPERM');
    if (!isPrivate || process.getuid?.() !== 0) throw err;
    lchownSync(path, 0, process.getgid?.() ?? 0);
    return openSync(path, flags);
  }
}

/** O_NOFOLLOW speaks of the last part of a path only: a directory before it may have become a link into the storage. */
function assertOpenedAt(fd: number, path: string): void {
  if (process.platform !== 'linux') return;
  if (readlinkSync(`/proc/self/fd/${fd}`) !== path) throw new Error('it is not where it should be');
}
