/**
 * What the worker does in the directory of a run before and after its handler. All of it blocks: it runs in a thread
 * (worker/disk.ts). The directories and who owns them are in scratch.ts.
 */
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fstatSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  readSync,
} from 'node:fs';
import { join } from 'node:path';

export { removeTree } from './remove-tree.ts';

/** Where the files of a run are. */
export interface RunDir {
  readonly dir: string;
  readonly inDir: string;
  readonly outDir: string;
}

/** Nobody else's until it is handed over. */
export function makeRunDir({ hostDir, name }: { hostDir: string; name: string }): RunDir {
  const dir = join(hostDir, name);
  const inDir = join(dir, 'in');
  const outDir = join(dir, 'out');
  mkdirSync(dir, { mode: 0o700 });
  mkdirSync(inDir);
  chmodSync(inDir, 0o755);
  mkdirSync(outDir);
  return { dir, inDir, outDir };
}

/** Gives the directory to the host; called when the inputs are in place. */
export function handOver({ runDir, uid }: { runDir: RunDir; uid: number | undefined }): void {
  for (const path of [runDir.outDir, runDir.dir]) {
    // The mode first: afterwards it is another user's directory, and changing it would need a right we gave up.
    chmodSync(path, 0o2770);
    if (uid !== undefined) chownSync(path, uid, process.getgid?.() ?? uid);
  }
}

/**
 * Reads a file that a task wrote, if it is one (see `openTaskFile`).
 * @returns undefined when it has more than `bytesMax` bytes.
 * @throws Error that says what it is instead.
 */
export function readTaskFile({ path, bytesMax }: { path: string; bytesMax: number }): string | undefined {
  const { fd, sizeBytes } = openTaskFile(path);
  try {
    if (sizeBytes > bytesMax) return undefined;
    // One more than there was: a host that still runs may make it larger at any moment, and without end.
    const buffer = Buffer.allocUnsafe(sizeBytes + 1);
    let total = 0;
    for (let count = -1; count !== 0; total += count)
      count = readSync(fd, buffer, total, buffer.length - total, null);
    if (total > sizeBytes) throw new Error('it changed while it was being read');
    return buffer.toString('utf8', 0, total);
  } finally {
    closeSync(fd);
  }
}

/**
 * Opens a file that a task wrote, for reading, if it is a plain file where it should be: no link to follow, no pipe to
 * wait on. `path` must be without symbolic links, as the directories of scratch.ts are.
 * @throws Error that says what it is instead.
 */
export function openTaskFile(path: string): { fd: number; sizeBytes: number } {
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
    if (process.getuid?.() !== 0) throw err;
    lchownSync(path, 0, process.getgid?.() ?? 0);
    return openSync(path, flags);
  }
}

/** O_NOFOLLOW speaks of the last part of a path only: a directory before it may have become a link into the storage. */
function assertOpenedAt(fd: number, path: string): void {
  if (process.platform !== 'linux') return;
  if (readlinkSync(`/proc/self/fd/${fd}`) !== path) throw new Error('it is not where it should be');
}
