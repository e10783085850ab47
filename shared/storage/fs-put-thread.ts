/** Runs in a thread (shared/disk/): a small file goes into the storage, in the order of fs-storage.ts. */
import { createHash } from 'node:crypto';
import { closeSync, fchmodSync, fsyncSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { crashPoint } from '#shared/crash-point.ts';
import { openPlainFile } from '#shared/disk/open-plain-file.ts';

const bufferBytesMax = 1024 * 1024;

interface Target {
  /** The most bytes that are taken. */
  readonly sizeBytesMax: number;
  readonly part: string;
  readonly path: string;
  readonly mode: number;
}

interface OpenedFile {
  /** Open for reading, at its beginning. */
  readonly fd: number;
  /** As it was when it was opened. */
  readonly sizeBytes: number;
}

type Stored = { readonly sizeBytes: number; readonly sha256: string };

export interface PutTask extends Target {
  /** The file to be stored. */
  readonly source: string;
  /** A larger one is left to the caller, opened. */
  readonly threadBytesMax: number;
}

/**
 * @returns `no-source` when it is no plain file, or has changed meanwhile (with the system's code, if it has one); `too-large` for
 *   `sizeBytesMax`.
 */
export function putFile({
  source,
  threadBytesMax,
  ...target
}: PutTask):
  | ({ readonly type: 'stored' } & Stored)
  | ({ readonly type: 'opened' } & OpenedFile)
  | { readonly type: 'no-source'; readonly message: string; readonly code: string | undefined }
  | { readonly type: 'too-large' } {
  let file: OpenedFile;
  try {
    file = openPlainFile(source);
  } catch (err) {
    const code = err instanceof Error && 'code' in err ? String(err.code) : undefined;
    // Everything else is our own trouble, or the disk's.
    if (code !== undefined && !sourceCodes.has(code)) throw err;
    return { type: 'no-source', message: err instanceof Error ? err.message : String(err), code };
  }
  if (file.sizeBytes > target.sizeBytesMax) {
    closeSync(file.fd);
    return { type: 'too-large' };
  }
  if (file.sizeBytes > threadBytesMax) return { type: 'opened', ...file };
  const stored = putOpened({ ...file, ...target });
  if (stored !== undefined) return { type: 'stored', ...stored };
  return { type: 'no-source', message: 'it changed while it was being read', code: undefined };
}

/** What opening says of the file itself. EAGAIN: somebody holds a lease on it. */
const sourceCodes = new Set(['ENOENT', 'ENOTDIR', 'EACCES', 'EPERM', 'ELOOP', 'EAGAIN', 'ENXIO']);

/**
 * Closes the file. @returns undefined when it has become larger: nobody can stop a thread, and a host that still runs could go on
 * writing for ever.
 */
export function putOpened(file: OpenedFile & Target): Stored | undefined {
  const { part, path } = file;
  try {
    const stored = writePart(file);
    if (stored !== undefined) {
      crashPoint('storage.before-rename');
      renameSync(part, path);
      syncOrRemove(path);
    }
    return stored;
  } finally {
    closeSync(file.fd);
  }
}

function writePart({ fd, sizeBytes, part, mode }: OpenedFile & Target): Stored | undefined {
  const out = openSync(part, 'wx', mode);
  try {
    // Not through open's mode alone: the umask would take bits away.
    fchmodSync(out, mode);
    const hash = createHash('sha256');
    // One more than there is: the read that finds the end is the same that found all.
    const buffer = Buffer.allocUnsafe(Math.min(sizeBytes + 1, bufferBytesMax));
    let total = 0;
    for (;;) {
      const count = readSync(fd, buffer, 0, buffer.length, null);
      if (count === 0) break;
      total += count;
      if (total > sizeBytes) return undefined;
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
