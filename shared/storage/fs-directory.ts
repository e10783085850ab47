import { randomBytes } from 'node:crypto';
import { chmod, mkdir, open, rename, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { codeOf } from './fs-errors.ts';

/**
 * Group members (the other service) may enter and write, and what they make stays in the group (setgid); others see
 * nothing. A reader without access to the directory gets at a file only through a hard link in its own directory.
 */
const directoryMode = 0o2770;

/**
 * Makes the directory, and its parents where they are missing, so that it survives a power cut. Where it exists it
 * is left as it is: the operator, or the other service, may own it. Says whether it made it.
 */
export async function makeDirectory(path: string): Promise<boolean> {
  if (await isThere(path)) return false;
  // Under another name until it is as it should be: the other service may want to write into it in the same moment.
  const unfinished = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await mkdir(unfinished);
  } catch (err) {
    if (codeOf(err) !== 'ENOENT') throw err;
    await makeDirectory(dirname(path));
    return makeDirectory(path);
  }
  try {
    // Not through mkdir's mode: the umask would take bits away.
    await chmod(unfinished, directoryMode);
    await rename(unfinished, path);
  } catch (err) {
    await rmdir(unfinished).catch(() => {});
    // Somebody else was first, and has put something into it already.
    if (codeOf(err) === 'ENOTEMPTY' || codeOf(err) === 'EEXIST') return false;
    throw err;
  }
  await syncDirectory(dirname(path));
  return true;
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (err: unknown) => {
      if (codeOf(err) === 'ENOENT') return false;
      throw err;
    },
  );
}

/** Makes the directory's entries durable: without it a new name may be gone after a power cut, although its file was synced. */
export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
