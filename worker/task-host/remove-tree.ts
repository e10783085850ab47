/**
 * Deletes directories that task hosts had. A host that still runs may swap a directory for a symbolic link while the
 * worker is about to enter it, and the worker may delete what the host may not; so every step starts from the
 * descriptor of a directory that was opened without following links (`/proc/self/fd/<n>/<name>` is what openat(2)
 * does). What cannot be deleted so (directories closed even to their owner, trees too deep, names that are not UTF-8)
 * is deleted by its owner, with the rights of the host and no more. Two hosts of one tenant may have put directories into one
 * another: what is left when all hosts of a worker are gone is opened to everyone by each of its owners in turn, so that the next one gets at
 * what is inside. All of it blocks: it runs in a thread (worker/disk.ts).
 */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  opendirSync,
  openSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';

/** Each level holds two descriptors. */
const depthMax = 32;

/** How often owners take turns at what is left. A tree that takes more was made to stay; it is left where it is. */
const turnsMax = 8;

/**
 * Deletes a tree, or what is there of it. Never throws.
 * @param task.deadlineMs gives up after this long: a host that still runs can make files faster than they are deleted.
 *   Default: never.
 * @param task.isAbandoned nobody runs any more who is to be kept from what its owner cannot delete: it may be opened to everyone.
 *   Default false.
 * @returns whether it is gone.
 */
export function removeTree({
  dir,
  deadlineMs = Infinity,
  isAbandoned = false,
}: {
  dir: string;
  deadlineMs?: number;
  isAbandoned?: boolean;
}): boolean {
  if (process.platform !== 'linux') {
    try {
      rmSync(dir, { recursive: true, force: true });
      return true;
    } catch {
      return false;
    }
  }
  const until = performance.now() + deadlineMs;
  const turns = isAbandoned ? turnsMax : 1;
  for (let turn = 0, stuck = walk(dir, until); turn < turns && stuck.size > 0; turn += 1) {
    // What its owner can delete by itself is never open to others.
    const opensTo = turn === 0 ? 'u' : 'a';
    const tried = [...stuck].map(([path, uid]) => removeAs(uid, { path, until, opensTo }));
    if (!tried.some(Boolean)) break;
    stuck = walk(dir, until);
  }
  return isGone(dir);
}

/** Nearly every run leaves a few files. */
const emptyMs = 20;
/** On some file systems (ext4) a directory never becomes smaller, however many names it had. */
const directoryBytesMax = 64 * 1024;

/**
 * Empties a directory that is ours and moves it to `to`. Never throws.
 * @returns false when that takes long, or cannot be done, or when it is another user's: what an owner can do to a directory (access
 *   control lists, flags, open descriptors) stays with it. Where hosts have our user they could do the same to any. Then it is to be removed.
 */
export function emptyTree({ dir, to }: { dir: string; to: string }): boolean {
  if (process.platform !== 'linux') return false;
  try {
    const { uid, size } = lstatSync(dir);
    if (uid !== process.getuid?.() || size > directoryBytesMax) return false;
    walk(dir, performance.now() + emptyMs, true);
    if (!isEmpty(dir)) return false;
    renameSync(dir, to);
    return true;
  } catch {
    return false;
  }
}

function isEmpty(dir: string): boolean {
  const entries = opendirSync(dir);
  try {
    return entries.readSync() === null;
  } finally {
    entries.closeSync();
  }
}

/** @returns path → owner of the topmost directories of an owner under which something could not be deleted. */
function walk(dir: string, until: number, keepsTop = false): Map<string, number> {
  const stuck = new Map<string, number>();

  /** `path` starts at a descriptor, `name` is the same directory's path for whoever comes after us. */
  function remove(path: string, name: string, depth: number, top?: { uid: number; name: string }): void {
    let fd: number | undefined;
    let mine = top;
    try {
      if (depth > depthMax) throw new Error('The tree is too deep.');
      fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      const { uid } = fstatSync(fd);
      if (uid !== top?.uid) mine = { uid, name };
      removeEntries(`/proc/self/fd/${fd}`, (child, entryName) =>
        remove(child, join(name, entryName), depth + 1, mine),
      );
    } catch {
      const uid = ownerOf(path);
      if (fd === undefined && uid !== undefined && uid !== top?.uid) mine = { uid, name };
      if (uid !== undefined && mine !== undefined) stuck.set(mine.name, mine.uid);
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
    if (keepsTop && depth === 0) return;
    try {
      rmdirSync(path);
    } catch {
      // Something is left in it, which is in `stuck` or was written just now; or what it lies in is closed.
      if (top !== undefined) stuck.set(top.name, top.uid);
    }
  }

  /** An entry at a time: a host may have made millions. */
  function removeEntries(here: string, removeDirectory: (path: string, name: string) => void): void {
    const entries = opendirSync(here);
    try {
      for (let entry = entries.readSync(); entry !== null; entry = entries.readSync()) {
        if (performance.now() > until) break;
        const child = join(here, entry.name);
        if (entry.isDirectory()) removeDirectory(child, entry.name);
        else unlinkSync(child);
      }
    } finally {
      entries.closeSync();
    }
  }

  remove(dir, dir, 0);
  return stuck;
}

/** Of the directory or file itself; undefined when it cannot be told. */
function ownerOf(path: string): number | undefined {
  try {
    return lstatSync(path).uid;
  } catch {
    return undefined;
  }
}

function isGone(path: string): boolean {
  try {
    // An error costs more than all of it.
    return lstatSync(path, { throwIfNoEntry: false }) === undefined;
  } catch {
    return false;
  }
}

/**
 * Without an environment: what runs as the host's user can be read by the host.
 * @returns whether it was tried: there may be no time any more, or no right to be that user.
 */
function removeAs(
  uid: number,
  { path, until, opensTo }: { path: string; until: number; opensTo: 'u' | 'a' },
): boolean {
  const me = process.getuid?.();
  const timeout = Math.ceil(until - performance.now());
  if (timeout <= 0 || (me !== 0 && me !== uid)) return false;
  // Nobody else's turn comes after ours; and stored files, which inputs are links to, are ours as well.
  const who = me === uid ? 'u' : opensTo;
  // chmod follows a link that was put in its way: nothing that root should do. rm does not.
  const script =
    uid === 0 ? 'rm -rf -- "$1"' : `rm -rf -- "$1" || { chmod -R ${who}+rwX -- "$1"; rm -rf -- "$1"; }`;
  spawnSync('/bin/sh', ['-c', script, 'remove-tree', path], {
    stdio: 'ignore',
    env: {},
    ...(Number.isFinite(timeout) && { timeout, killSignal: 'SIGKILL' as const }),
    ...(me !== uid && { uid, gid: uid }),
  });
  return true;
}
