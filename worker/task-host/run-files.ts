/**
 * What the worker does in the directory of a run before and after its handler. All of it blocks: it runs in a thread
 * (worker/disk.ts). The directories and who owns them are in scratch.ts.
 */
import { chmodSync, chownSync, closeSync, linkSync, mkdirSync, readSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { openPlainFile } from '#shared/disk/open-plain-file.ts';

export { emptyTree, removeTree } from './remove-tree.ts';

export interface NewRun {
  /** Of the run; there is none yet. */
  readonly dir: string;
  /** An empty directory (`emptyTree`) that becomes the one of the run. */
  readonly spare?: string | undefined;
  readonly inputs: readonly {
    readonly id: string;
    /** Where its bytes can be linked from; undefined where they cannot. */
    readonly source: string | undefined;
  }[];
}

/**
 * Makes the directory of a run with its inputs as hard links. It is ours until it is handed over.
 * @returns the ids of those that could not be linked (another file system, too many links, no such file).
 */
export function prepareRun({ dir, spare, inputs }: NewRun): string[] {
  if (spare === undefined || !isMoved(spare, dir)) mkdirSync(dir, { mode: 0o700 });
  // Before it is another user's directory: changing it would need a right we gave up.
  chmodSync(dir, 0o2770);
  return inputs.filter((input) => !isLinked(input.source, join(dir, input.id))).map((input) => input.id);
}

function isMoved(from: string, to: string): boolean {
  try {
    renameSync(from, to);
    return true;
  } catch {
    return false;
  }
}

/** Why not is for the storage to say, which is asked for the file next. */
function isLinked(source: string | undefined, path: string): boolean {
  if (source === undefined) return false;
  try {
    linkSync(source, path);
    return true;
  } catch {
    return false;
  }
}

/** Gives the directory to the user of a host, when the inputs are in place. */
export function handOver({ dir, uid }: { dir: string; uid: number }): void {
  chownSync(dir, uid, process.getgid?.() ?? uid);
}

/**
 * Reads a file that a task wrote, if it is one (shared/disk/open-plain-file.ts).
 * @returns undefined when it has more than `bytesMax` bytes.
 * @throws Error that says what it is instead.
 */
export function readTaskFile({ path, bytesMax }: { path: string; bytesMax: number }): string | undefined {
  const { fd, sizeBytes } = openPlainFile(path);
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
