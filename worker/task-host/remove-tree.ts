/**
 * Deletes directories that task hosts had. A host that still runs may swap a directory for a symbolic link while the
 * worker is about to enter it, and the worker may delete what the host may not; so every step starts from the
 * descriptor of a directory that was opened without following links (`/proc/self/fd/<n>/<name>` is what openat(2)
 * does). What cannot be deleted so (directories closed even to their owner, trees too deep, names that are not UTF-8)
 * is deleted by its owner, with the rights of the host and no more.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { lstat, open, opendir, rm, rmdir, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';

/** Each level holds two descriptors. */
const depthMax = 32;

/**
 * Deletes a tree, or what is there of it. Never rejects.
 * @param options.deadlineMs gives up after this long: a host that still runs can make files faster than they are deleted.
 *   Default: never.
 * @returns whether it is gone.
 */
export async function removeTree(dir: string, options: { deadlineMs?: number } = {}): Promise<boolean> {
  if (process.platform !== 'linux') {
    return rm(dir, { recursive: true, force: true }).then(
      () => true,
      () => false,
    );
  }
  const until = performance.now() + (options.deadlineMs ?? Infinity);
  const stuck = await walk(dir, until);
  if (stuck.size > 0) {
    for (const [path, uid] of stuck) await removeAs(uid, path, until);
    await walk(dir, until);
  }
  return lstat(dir).then(
    () => false,
    (err: unknown) => err instanceof Error && 'code' in err && err.code === 'ENOENT',
  );
}

/** @returns path → owner of the topmost directories of an owner under which something could not be deleted. */
async function walk(dir: string, until: number): Promise<Map<string, number>> {
  const stuck = new Map<string, number>();

  /** `path` starts at a descriptor, `name` is the same directory's path for whoever comes after us. */
  async function remove(
    path: string,
    name: string,
    depth: number,
    top?: { uid: number; name: string },
  ): Promise<void> {
    let handle: FileHandle | undefined;
    let mine = top;
    try {
      if (depth > depthMax) throw new Error('The tree is too deep.');
      handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      const { uid } = await handle.stat();
      if (uid !== top?.uid) mine = { uid, name };
      const here = `/proc/self/fd/${handle.fd}`;
      for await (const entry of await opendir(here)) {
        if (performance.now() > until) break;
        const child = join(here, entry.name);
        if (entry.isDirectory()) await remove(child, join(name, entry.name), depth + 1, mine);
        else await unlink(child);
      }
    } catch {
      const uid = await lstat(path).then(
        (entry) => entry.uid,
        () => undefined,
      );
      if (handle === undefined && uid !== undefined && uid !== top?.uid) mine = { uid, name };
      if (uid !== undefined && mine !== undefined) stuck.set(mine.name, mine.uid);
    } finally {
      await handle?.close();
    }
    // Fails where something is left, which is in `stuck` or was written just now.
    await rmdir(path).catch(() => {});
  }

  await remove(dir, dir, 0);
  return stuck;
}

/** Without an environment: what runs as the host's user can be read by the host. */
async function removeAs(uid: number, dir: string, until: number): Promise<void> {
  const me = process.getuid?.();
  const timeout = Math.ceil(until - performance.now());
  if (timeout <= 0 || (me !== 0 && me !== uid)) return;
  // chmod follows a link that was put in its way: nothing that root should do. rm does not.
  const script =
    uid === 0 ? 'rm -rf -- "$1"' : 'rm -rf -- "$1" || { chmod -R u+rwx -- "$1"; rm -rf -- "$1"; }';
  const child = spawn('/bin/sh', ['-c', script, 'remove-tree', dir], {
    stdio: 'ignore',
    env: {},
    ...(Number.isFinite(timeout) && { timeout, killSignal: 'SIGKILL' as const }),
    ...(me !== uid && { uid, gid: uid }),
  });
  await once(child, 'close').catch(() => {});
}
