/**
 * Decides who has a run that a host was given before its last one ended: the host, which begins it, or the worker, which takes it
 * back. Its token lies in a pipe that both can read, and whoever reads it has the run. Asking the host would not do: one whose
 * handler keeps its thread to itself does not answer, and what waits for an answer cannot go to another host.
 */
import { execFile } from 'node:child_process';
import { closeSync, constants, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface TokenPipe {
  /** The host's end, for `spawn`, which copies it. */
  readonly hostFd: number;
  /** The host has it: ours of it is closed. */
  closeHostFd(): void;
  /** @returns false when that is not possible any more. */
  put(token: string): boolean;
  /** @returns whether it was there, and is ours again. */
  takeBack(token: string): boolean;
  close(): void;
}

/** In the host. */
export const tokenFd = 4;

/** A token is the id of a run, a UUID. Less than a pipe takes in one go (PIPE_BUF, at least 512 bytes). */
const tokenBytes = 36;

/**
 * Only for hosts of the worker's own user: another one's could make the worker wait, because the kernel lets nobody else at a pipe while
 * somebody reads it into memory that is not there yet.
 * @param dir of the worker; the pipe has a name in it for a moment only.
 * @returns undefined where there is none. POSIX leaves open what opening a FIFO for reading and writing does, Linux does not.
 */
export async function openTokenPipe(dir: string): Promise<TokenPipe | undefined> {
  if (process.platform !== 'linux') return undefined;
  const path = join(dir, 'tokens');
  const open = new Set<number>();
  try {
    await promisify(execFile)('mkfifo', ['-m', '600', path]);
    // Opened twice, because flags belong to what was opened: in our own we never wait.
    open.add(openSync(path, constants.O_RDWR | constants.O_NONBLOCK));
    open.add(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
    unlinkSync(path);
  } catch {
    // No such program, or no such files. Hosts are then given their next run when the last one has ended.
    for (const fd of open) closeSync(fd);
    return undefined;
  }
  const [fd, hostFd] = [...open] as [number, number];
  const close = (which: number) => {
    if (open.delete(which)) closeSync(which);
  };
  return {
    hostFd,
    closeHostFd: () => close(hostFd),
    put(token) {
      try {
        return open.has(fd) && writeSync(fd, token) === tokenBytes;
      } catch {
        // The host filled it with something of its own.
        return false;
      }
    },
    takeBack: (token) => open.has(fd) && readToken(fd) === token,
    close() {
      close(fd);
      close(hostFd);
    },
  };
}

/** @returns undefined when there is none. */
export function readToken(fd: number): string | undefined {
  const buffer = Buffer.alloc(tokenBytes);
  try {
    return buffer.toString('latin1', 0, readSync(fd, buffer));
  } catch {
    return undefined;
  }
}
