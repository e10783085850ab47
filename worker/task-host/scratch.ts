/**
 * The directories of task hosts and their runs, on the storage volume so that inputs can be hard links.
 *
 *   scratch/                   2771  traversable, not listable; all workers make theirs in it
 *     <worker>/                0711
 *       inline/                0700  runs inside the worker
 *       <host>/                0711
 *         home/                2770  the host's own: HOME, TMPDIR and working directory
 *       runs/                  0711
 *         <run>/               2770  one run: ours while it is prepared, its host's once it begins; gone when it has ended
 *           <id>                     input files (not the host's, so it cannot write to them) and output files
 *           tmp/                     the handler's scratchDir
 *           result.json              only when it is too long for a message
 *         spare-<n>/                     empty: becomes the next run's of the same tenant (spare-dirs.ts)
 *
 * With privilege separation the worker has no right over files of the hosts' users but through its group (hence setgid
 * directories and the hosts' umask of 007), and CAP_CHOWN for what a tool made private.
 *
 * What a host owns it may replace at any moment, by a symbolic link for example, and the worker has rights that hosts
 * do not have. So the worker changes modes and owners only in directories that belong to itself, trusts what
 * it opened and not the path it opened it by (run-files.ts), and goes down a host's tree by descriptors (remove-tree.ts).
 */
import { chmod, chown, mkdir, realpath, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';

export interface WorkerScratch {
  /** Of all workers: the janitor looks here for what dead ones left. */
  readonly root: string;
  readonly dir: string;
  /** Of the runs in task hosts. */
  readonly runsDir: string;
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
  const runsDir = join(dir, 'runs');
  await mkdir(runsDir);
  await chmod(runsDir, 0o711);
  return { root, dir, runsDir };
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

/** The mode first: afterwards it is another user's directory, and changing it would need a right we gave up. */
async function own(path: string, mode: number, uid: number | undefined): Promise<void> {
  await chmod(path, mode);
  if (uid !== undefined) await chown(path, uid, process.getgid?.() ?? uid);
}
