/**
 * The directories of task hosts and their runs, on the storage volume so that inputs can be hard links.
 *
 *   scratch/                   2771  traversable, not listable; all workers make theirs in it
 *     <worker>/                0711
 *       inline/                0700  runs inside the worker
 *       <host>/                0711
 *         home/                2770  the host's own: HOME, TMPDIR and working directory
 *         <run>/               2770  one run, the host's once it begins; gone when it has ended
 *           in/                0755  input files, read-only
 *           out/               2770  output files by id
 *           tmp/                     the handler's scratchDir
 *           result.json
 *
 * With privilege separation the worker has no right over files of the hosts' users but through its group (hence setgid
 * directories and the hosts' umask of 007), and CAP_CHOWN for what a tool made private.
 *
 * What a host owns it may replace at any moment, by a symbolic link for example, and the worker has rights that hosts
 * do not have. So the worker changes modes and owners only in directories that belong to itself, trusts what
 * it opened and not the path it opened it by, and goes down a host's tree by descriptors.
 */
import {
  chmod,
  chown,
  lchown,
  lstat,
  mkdir,
  open,
  readlink,
  realpath,
  stat,
  type FileHandle,
} from 'node:fs/promises';
import { constants } from 'node:fs';
import { dirname, join } from 'node:path';

export interface WorkerScratch {
  /** Of all workers: the janitor looks here for what dead ones left. */
  readonly root: string;
  readonly dir: string;
}

/** Makes the directory in which this worker's hosts have theirs. Paths have no symbolic link in them. */
export async function createWorkerScratch(dataDir: string, workerId: string): Promise<WorkerScratch> {
  const made = await mkdir(join(dataDir, 'scratch'), { recursive: true });
  const root = await realpath(join(dataDir, 'scratch'));
  if (made !== undefined) await chmod(root, 0o2771);
  const dir = join(root, workerId);
  await mkdir(dir);
  await chmod(dir, 0o711);
  await mkdir(join(dir, 'inline'), { mode: 0o700 });
  return { root, dir };
}

/**
 * Hosts with users of their own have to get through to their directories. The data directory itself is opened for that
 * where it is ours (traversable, still not listable): volumes often come without.
 * @throws Error that names the directory in the way.
 */
export async function openWayToScratch(dataDir: string, scratch: WorkerScratch): Promise<void> {
  const data = await stat(dataDir);
  if ((data.mode & 0o001) === 0 && data.uid === process.getuid?.())
    await chmod(dataDir, (data.mode & 0o7777) | 0o001);
  for (let path = scratch.dir; path !== dirname(path); path = dirname(path)) {
    if (((await stat(path)).mode & 0o001) === 0) {
      throw new Error(
        `Task hosts run as users of their own and cannot get through ${path} to ${scratch.dir}. Run \`chmod o+x ${path}\`.`,
      );
    }
  }
}

export async function createHostDir(dir: string, uid: number | undefined): Promise<void> {
  await mkdir(dir);
  await chmod(dir, 0o711);
  await mkdir(homeOf(dir), { mode: 0o700 });
  await own(homeOf(dir), 0o2770, uid);
}

export function homeOf(hostDir: string): string {
  return join(hostDir, 'home');
}

export interface RunDir {
  readonly dir: string;
  readonly inDir: string;
  readonly outDir: string;
  /** Gives the directory to the host; called when the inputs are in place. */
  handOver(): Promise<void>;
}

export async function createRunDir(hostDir: string, name: string, uid: number | undefined): Promise<RunDir> {
  const dir = join(hostDir, name);
  const inDir = join(dir, 'in');
  const outDir = join(dir, 'out');
  // Nobody else's until it is handed over.
  await mkdir(dir, { mode: 0o700 });
  await mkdir(inDir);
  await chmod(inDir, 0o755);
  await mkdir(outDir);
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
 * Opens a file that a task wrote, for reading, if it is a plain file where it should be: no link to follow, no pipe to
 * wait on. `path` must be without symbolic links, as the directories of this file are.
 * @throws Error that says what it is instead.
 */
export async function openTaskFile(path: string): Promise<{ handle: FileHandle; sizeBytes: number }> {
  const found = await lstat(path);
  if (!found.isFile()) throw new Error('it is not a plain file');
  const handle = await openPrivate(path);
  try {
    const opened = await handle.stat();
    if (!opened.isFile()) throw new Error('it changed while it was being read');
    if (opened.nlink > 1) throw new Error('it is a hard link to another file');
    await assertOpenedAt(handle, path);
    return { handle, sizeBytes: opened.size };
  } catch (err) {
    await handle.close();
    throw err;
  }
}

async function openPrivate(path: string): Promise<FileHandle> {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  return open(path, flags).catch(async (err: unknown) => {
    // A tool made it private to the host's user.
    if (process.getuid?.() !== 0) throw err;
    await lchown(path, 0, process.getgid?.() ?? 0);
    return open(path, flags);
  });
}

/** O_NOFOLLOW speaks of the last part of a path only: a directory before it may have become a link into the storage. */
async function assertOpenedAt(handle: FileHandle, path: string): Promise<void> {
  if (process.platform !== 'linux') return;
  if ((await readlink(`/proc/self/fd/${handle.fd}`)) !== path)
    throw new Error('it is not where it should be');
}
