/**
 * What the worker does in the directory of a run before and after its handler. All of it blocks: it runs in a thread
 * (worker/disk.ts). The directories and who owns them are in scratch.ts.
 */
import { chmodSync, chownSync, closeSync, linkSync, mkdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { openPlainFile } from '#shared/disk/open-plain-file.ts';

export { removeTree } from './remove-tree.ts';

/** Where the files of a run are. */
export interface RunDir {
  readonly dir: string;
  readonly inDir: string;
}

export interface NewRun {
  readonly hostDir: string;
  readonly name: string;
  /** Of the host; undefined where it has ours. */
  readonly uid: number | undefined;
  readonly inputs: readonly {
    readonly id: string;
    /** Where its bytes can be linked from; undefined where they cannot. */
    readonly source: string | undefined;
  }[];
}

/**
 * Makes the directory of a run with its inputs as hard links, and hands it over. Where some could not be linked (another file
 * system, too many links, no such file) it stays ours until they have been put there in another way.
 * @returns the ids of those as `missing`.
 */
export function prepareRun({ hostDir, name, uid, inputs }: NewRun): {
  runDir: RunDir;
  missing: string[];
} {
  const dir = join(hostDir, name);
  const runDir = { dir, inDir: join(dir, 'in') };
  mkdirSync(dir, { mode: 0o700 });
  mkdirSync(runDir.inDir);
  chmodSync(runDir.inDir, 0o755);
  const missing = inputs.filter((input) => !isLinked(input.source, join(runDir.inDir, input.id)));
  if (missing.length === 0) handOver({ runDir, uid });
  return { runDir, missing: missing.map((input) => input.id) };
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

/** Gives the directory to the host, when the inputs are in place. */
export function handOver({ runDir, uid }: { runDir: RunDir; uid: number | undefined }): void {
  // The mode first: afterwards it is another user's directory, and changing it would need a right we gave up.
  chmodSync(runDir.dir, 0o2770);
  if (uid !== undefined) chownSync(runDir.dir, uid, process.getgid?.() ?? uid);
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
