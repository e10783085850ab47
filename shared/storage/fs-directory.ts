import { chmod, mkdir, open } from 'node:fs/promises';
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
  try {
    await mkdir(path);
  } catch (err) {
    if (codeOf(err) === 'EEXIST') return false;
    if (codeOf(err) !== 'ENOENT') throw err;
    await makeDirectory(dirname(path));
    return makeDirectory(path);
  }
  // Not through mkdir's mode: the umask would take bits away.
  await chmod(path, directoryMode);
  await syncDirectory(dirname(path));
  return true;
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
