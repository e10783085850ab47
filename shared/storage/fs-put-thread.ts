/** Runs in a thread (shared/disk/): a small file that is open goes into the storage, in the order of fs-storage.ts. */
import { createHash } from 'node:crypto';
import { closeSync, fchmodSync, fsyncSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { crashPoint } from '#shared/crash-point.ts';

const bufferBytesMax = 1024 * 1024;
/** What a file was announced with may be less than what a host that still runs makes of it, and nobody can stop a thread. */
const bufferBytesMin = 64 * 1024;

export interface PutTask {
  /** Read from where it stands to its end, and closed. */
  readonly fd: number;
  /** As it was announced, in bytes. */
  readonly sizeBytes: number;
  readonly sizeBytesMax: number;
  readonly part: string;
  readonly path: string;
  readonly mode: number;
}

/** @returns undefined when the file has become larger than `sizeBytesMax`. */
export function putFile(task: PutTask): { sizeBytes: number; sha256: string } | undefined {
  const { fd, part, path } = task;
  try {
    const stored = writePart(task);
    if (stored !== undefined) {
      crashPoint('storage.before-rename');
      renameSync(part, path);
      syncOrRemove(path);
    }
    return stored;
  } finally {
    closeSync(fd);
  }
}

function writePart({ fd, sizeBytes, sizeBytesMax, part, mode }: PutTask): ReturnType<typeof putFile> {
  const out = openSync(part, 'wx', mode);
  try {
    // Not through open's mode alone: the umask would take bits away.
    fchmodSync(out, mode);
    const hash = createHash('sha256');
    // One more than there is: the read that finds the end is the same that found all.
    const buffer = Buffer.allocUnsafe(Math.min(Math.max(sizeBytes + 1, bufferBytesMin), bufferBytesMax));
    let total = 0;
    for (;;) {
      const count = readSync(fd, buffer, 0, buffer.length, null);
      if (count === 0) break;
      total += count;
      if (total > sizeBytesMax) return undefined;
      const chunk = buffer.subarray(0, count);
      hash.update(chunk);
      for (let written = 0; written < count;) written += writeSync(out, chunk, written);
    }
    crashPoint('storage.before-sync');
    fsyncSync(out);
    return { sizeBytes: total, sha256: hash.digest('hex') };
  } finally {
    closeSync(out);
  }
}

function syncOrRemove(path: string): void {
  try {
    const dir = openSync(dirname(path), 'r');
    try {
      fsyncSync(dir);
    } finally {
      closeSync(dir);
    }
  } catch (err) {
    // The name may be gone after a power cut, so it must not be promised to anyone.
    rmSync(path, { force: true });
    throw err;
  }
}
