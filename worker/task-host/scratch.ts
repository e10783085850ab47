/**
 * The directories of task hosts and their runs, on the storage volume so that inputs can be hard links.
 *
 *   scratch/<worker>/          0711  traversable, not listable
 *     <host>/                  0770  owned by the host's user, group of the worker
 *       <job>-<fence>/         2770  one run; gone when it has ended
 *         in/                  0755  input files, read-only
 *         out/                 2770  output files by id
 *         tmp/                       the handler's scratchDir
 *         result.json
 *
 * With privilege separation the worker has no right over files of the hosts' users but through its group (hence setgid
 * directories and the hosts' umask of 007), and CAP_CHOWN for what a tool made private.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, lstat, mkdir, open, rm, type FileHandle } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';

export async function createHostHome(dir: string, uid: number | undefined): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o711 });
  await own(dir, 0o770, uid);
}

export interface RunDir {
  readonly dir: string;
  readonly inDir: string;
  readonly outDir: string;
  /** Gives the directory to the host; called when the inputs are in place. */
  handOver(): Promise<void>;
}

export async function createRunDir(home: string, name: string, uid: number | undefined): Promise<RunDir> {
  const dir = join(home, name);
  const inDir = join(dir, 'in');
  const outDir = join(dir, 'out');
  await mkdir(inDir, { recursive: true });
  await mkdir(outDir);
  await chmod(inDir, 0o755);
  return {
    dir,
    inDir,
    outDir,
    async handOver() {
      await own(outDir, 0o2770, uid);
      await own(dir, 0o2770, uid);
    },
  };
}

/** The mode first: afterwards it is another user's directory, and changing it would need a right we gave up. */
async function own(path: string, mode: number, uid: number | undefined): Promise<void> {
  await chmod(path, mode);
  if (uid !== undefined) await chown(path, uid, process.getgid?.() ?? uid);
}

/**
 * Opens a file that a task wrote, for reading, if it is a plain file: no link to follow, no pipe to wait on.
 * @throws Error that says what it is instead.
 */
export async function openTaskFile(path: string): Promise<{ handle: FileHandle; sizeBytes: number }> {
  const found = await lstat(path);
  if (!found.isFile()) throw new Error('it is not a plain file');
  if (found.nlink > 1) throw new Error('it is a hard link to another file');
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await open(path, flags).catch(async (err: unknown) => {
    // A tool made it private to the host's user.
    if (process.getuid?.() !== 0) throw err;
    await chown(path, 0, process.getgid?.() ?? 0);
    return open(path, flags);
  });
  const stat = await handle.stat();
  if (!stat.isFile() || stat.ino !== found.ino) {
    await handle.close();
    throw new Error('it changed while it was being read');
  }
  return { handle, sizeBytes: stat.size };
}

/** Deletes a tree; parts that only their owner may touch are deleted as that owner. Never rejects: the sweep tries again. */
export async function removeTree(dir: string): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true });
  } catch (err) {
    if (process.getuid?.() !== 0 || !(err instanceof Error) || !('path' in err) || typeof err.path !== 'string') return;
    const owner = await lstat(err.path).catch(() => undefined);
    if (owner === undefined || owner.uid === 0) return;
    const child = spawn('/bin/rm', ['-rf', '--', err.path], { uid: owner.uid, gid: owner.gid, stdio: 'ignore' });
    await once(child, 'close').catch(() => {});
    await rm(dir, { recursive: true, force: true }).catch(() => {});
  }
}
