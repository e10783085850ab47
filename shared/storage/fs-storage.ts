/**
 * Files on a local (or POSIX-like network) file system.
 *
 *   <dir>/parts/<id>.<random>   being written
 *   <dir>/<last 2 of id>/<id>   stored: complete, synced, never changed in place
 *
 * Ids are UUIDv7: their first characters are the time, so the last ones spread files over 256 directories.
 *
 * Order of a `put`: write the part → fsync it → rename it → fsync its directory. Death before the rename leaves a
 * part, which `sweepParts` deletes; death after it leaves whole bytes, which either have a row or are found by
 * the orphan sweep through `list`. Two puts of one id use two parts: the one that finishes last wins as a whole,
 * and who reads the other keeps reading it.
 */
import { randomBytes } from 'node:crypto';
import { constants, createReadStream, type Stats } from 'node:fs';
import { access, link, open, opendir, rename, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { crashPoint } from '#shared/crash-point.ts';
import type { DiskThreads } from '#shared/disk/disk-threads.ts';
import { isUuid } from '#shared/ids.ts';
import { makeDirectory, syncDirectory } from './fs-directory.ts';
import { codeOf, missingOr, storageError } from './fs-errors.ts';
import * as fsPut from './fs-put-thread.ts';
import { tooLarge, writeStream } from './fs-write.ts';
import { SourceFileError, type Storage } from './storage.ts';

/**
 * Others may read: a task host has another user id and gets the file as a hard link, while the directories keep it
 * from everything else. The group may write, because with fs.protected_hardlinks the kernel lets a worker that is not the
 * owner link only what it could write.
 */
const fileMode = 0o664;
/** A copy for one reader, who must not change what the next attempt reads. */
const copyMode = 0o444;
const readBytes = 256 * 1024;

type PutOptions = Parameters<Storage['put']>[2];
type Stored = Awaited<ReturnType<Storage['put']>>;

/** Larger files are streamed: a thread that copies one holds up the small ones behind it, and cannot be told to stop. */
const threadBytesMax = 16 * 1024 * 1024;
const streamBytes = 1024 * 1024;

/**
 * The directory is made when first needed. It must be on one file system; scratch space on the same one saves copies.
 * @param options.threads for small files that are already on disk; without them, storing one blocks.
 */
export function createFsStorage({ dir, threads }: { dir: string; threads?: DiskThreads }): Storage {
  const putInThread = threads?.load<typeof fsPut>(new URL('./fs-put-thread.ts', import.meta.url));
  const partsDir = join(dir, 'parts');
  const made = new Map<string, Promise<void>>();

  function pathOf(id: string): string {
    if (!isUuid(id)) throw new TypeError(`"${String(id)}" is not the id of a file.`);
    return join(dir, id.slice(-2), id);
  }

  /**
   * Once per process and directory. The entry is synced even where the directory exists: the process that made it may not have
   * come that far yet.
   */
  function ensure(path: string): Promise<void> {
    let promise = made.get(path);
    if (!promise) {
      promise = makeDirectory(path).then((isNew) => (isNew ? undefined : syncDirectory(dir)));
      made.set(path, promise);
      promise.catch(() => made.delete(path));
    }
    return promise;
  }

  async function put(id: string, source: Readable, options: PutOptions): Promise<Stored> {
    // The source may fail before the first read listens to it; the read then throws the same error.
    source.on('error', () => {});
    const part = join(partsDir, `${id}.${randomBytes(6).toString('hex')}`);
    try {
      const path = pathOf(id);
      await ensure(partsDir);
      const stored = await writePart(part, source, options);
      await ensure(dirname(path));
      crashPoint('storage.before-rename');
      await publish(part, path);
      return stored;
    } catch (err) {
      source.destroy();
      // What cannot be removed now is a part, and the sweep's.
      await rm(part, { force: true }).catch(() => {});
      // Someone removed a directory under us: the next put makes it again.
      if (codeOf(err) === 'ENOENT') made.clear();
      throw err === source.errored ? err : storageError(err);
    }
  }

  async function putFile(id: string, source: string, options: PutOptions): Promise<Stored> {
    const { sizeBytesMax, signal } = options;
    const part = join(partsDir, `${id}.${randomBytes(6).toString('hex')}`);
    const path = pathOf(id);
    let end: ReturnType<typeof fsPut.putFile>;
    try {
      await ensure(partsDir);
      await ensure(dirname(path));
      signal?.throwIfAborted();
      const task = { source, threadBytesMax, sizeBytesMax, part, path, mode: fileMode };
      end = putInThread === undefined ? fsPut.putFile(task) : await putInThread('putFile', task);
    } catch (err) {
      await rm(part, { force: true }).catch(() => {});
      if (codeOf(err) === 'ENOENT') made.clear();
      throw storageError(err);
    }
    switch (end.type) {
      case 'stored':
        return { sizeBytes: end.sizeBytes, sha256: end.sha256 };
      case 'opened':
        return put(id, createReadStream('', { fd: end.fd, highWaterMark: streamBytes }), options);
      case 'no-source':
        await rm(part, { force: true }).catch(() => {});
        throw new SourceFileError(
          Object.assign(new Error(end.message), end.code !== undefined && { code: end.code }),
        );
      case 'too-large':
        throw tooLarge(sizeBytesMax);
    }
  }

  async function read(id: string, range?: { start: number; end: number }): Promise<Readable> {
    if (range && !(range.start >= 0 && range.start <= range.end)) {
      throw new RangeError(`There is no range from ${range.start} to ${range.end}.`);
    }
    const path = pathOf(id);
    const handle = await open(path, 'r').catch((err: unknown) => {
      throw missingOr(err, id);
    });
    return handle.createReadStream({ ...range, highWaterMark: readBytes });
  }

  async function materialize(id: string, path: string, { sha256 }: { sha256: string }): Promise<void> {
    const stored = pathOf(id);
    try {
      // The same bytes under a second name: nothing to verify, nothing to copy. Fails on whatever is at `path`.
      await link(stored, path);
    } catch (err) {
      // Missing is either the file or the directory of `path`.
      if (codeOf(err) === 'ENOENT') await statOf(id);
      if (!['EXDEV', 'EPERM', 'EMLINK'].includes(codeOf(err) ?? '')) throw err;
      await copyVerified(id, path, sha256);
    }
  }

  /** For another file system, and where the kernel allows no more links. */
  async function copyVerified(id: string, path: string, sha256: string): Promise<void> {
    const source = await read(id);
    // `wx` fails on anything at `path`, a symbolic link included. Nobody else may read before the bytes are verified.
    const handle = await open(path, 'wx', 0o600).catch((err: unknown) => {
      source.destroy();
      throw err;
    });
    try {
      const copied = await writeStream(handle, source, { sizeBytesMax: Infinity });
      if (copied.sha256 !== sha256)
        throw new Error(`The stored bytes of file ${id} have SHA-256 ${copied.sha256} instead of ${sha256}.`);
      await handle.chmod(copyMode);
    } catch (err) {
      await rm(path, { force: true });
      throw err;
    } finally {
      await handle.close();
    }
  }

  async function* list(): AsyncIterable<{ id: string; modifiedAt: Date }> {
    await ensure(partsDir);
    for await (const shard of await opendir(dir)) {
      if (!/^[0-9a-f]{2}$/.test(shard.name)) continue;
      for await (const entry of await opendir(join(dir, shard.name))) {
        if (!isUuid(entry.name)) continue;
        const stats = await statIfThere(join(dir, shard.name, entry.name));
        if (stats) yield { id: entry.name, modifiedAt: stats.mtime };
      }
    }
  }

  async function sweepParts(olderThanMs: number): Promise<number> {
    await ensure(partsDir);
    const before = Date.now() - olderThanMs;
    let count = 0;
    for await (const entry of await opendir(partsDir)) {
      const path = join(partsDir, entry.name);
      const stats = await statIfThere(path);
      if (!stats || stats.mtimeMs > before) continue;
      await rm(path, { force: true });
      count += 1;
    }
    return count;
  }

  async function check(): Promise<{ usedShare: number }> {
    await ensure(partsDir);
    await access(partsDir, constants.W_OK);
    const disk = await statfs(dir);
    // As df does: what is reserved for root counts as used.
    const used = disk.blocks - disk.bfree;
    const bytesShare = used / Math.max(1, used + disk.bavail);
    // No inode left is a full disk too. Some file systems (btrfs) have no such number and say 0.
    const inodesShare = disk.files > 0 ? 1 - disk.ffree / disk.files : 0;
    return { usedShare: Math.max(bytesShare, inodesShare) };
  }

  async function statOf(id: string): Promise<Stats> {
    return stat(pathOf(id)).catch((err: unknown) => {
      throw missingOr(err, id);
    });
  }

  return {
    put,
    putFile,
    read,
    async stat(id) {
      const stats = await statOf(id);
      return { sizeBytes: stats.size, modifiedAt: stats.mtime };
    },
    async delete(id) {
      await rm(pathOf(id), { force: true });
    },
    materialize,
    linkSource: pathOf,
    list,
    sweepParts,
    check,
  };
}

async function writePart(part: string, source: Readable, options: PutOptions): Promise<Stored> {
  const handle = await open(part, 'wx', fileMode);
  try {
    // Not through open's mode alone: the umask would take bits away.
    await handle.chmod(fileMode);
    const stored = await writeStream(handle, source, options);
    crashPoint('storage.before-sync');
    await handle.sync();
    return stored;
  } finally {
    await handle.close();
  }
}

async function publish(part: string, path: string): Promise<void> {
  await rename(part, path);
  try {
    await syncDirectory(dirname(path));
  } catch (err) {
    // The name may be gone after a power cut, so it must not be promised to anyone.
    await rm(path, { force: true }).catch(() => {});
    throw err;
  }
}

async function statIfThere(path: string): Promise<Stats | undefined> {
  return stat(path).catch((err: unknown) => {
    if (codeOf(err) === 'ENOENT') return undefined;
    throw err;
  });
}
