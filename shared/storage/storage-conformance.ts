/** What every storage driver promises; a driver's test calls this with a way to make one. */
import { createHash, randomBytes } from 'node:crypto';
import {
  linkSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { chmod, lstat, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { AppError } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { SourceFileError, StoredFileMissingError, type Storage } from './storage.ts';

export interface StorageUnderTest {
  readonly storage: Storage;
  /** Removes everything that the storage keeps. */
  readonly cleanUp: () => Promise<void>;
}

const MiB = 1024 * 1024;

/** By this process; never where that cannot be seen. */
function isOpen(path: string): boolean {
  if (process.platform !== 'linux') return false;
  return readdirSync('/proc/self/fd').some((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === path;
    } catch {
      return false;
    }
  });
}

export function describeStorage(name: string, create: () => Promise<StorageUnderTest>): void {
  describe(`${name} keeps the promises of a storage`, () => {
    let storage: Storage;
    let scratch: string;
    let cleanUp: () => Promise<void>;

    beforeEach(async () => {
      ({ storage, cleanUp } = await create());
      // Not the promise: Node 24 swallows what is thrown in the tick after it, and a test of unhandled errors is blind.
      scratch = realpathSync(mkdtempSync(join(tmpdir(), 'windlass-storage-')));
    });
    afterEach(async () => {
      await rm(scratch, { recursive: true });
      await cleanUp();
    });

    const put = (bytes: Buffer, id = uuidv7()) =>
      storage
        .put(id, Readable.from(slices(bytes, 64 * 1024)), { sizeBytesMax: 64 * MiB })
        .then((stored) => ({ id, ...stored }));
    const readAll = async (id: string, range?: { start: number; end: number }) =>
      buffer(await storage.read(id, range));
    const listed = async () => {
      const files: { id: string; modifiedAt: Date }[] = [];
      for await (const file of storage.list()) files.push(file);
      return files;
    };
    const expectNothingUnder = async (id: string) => {
      await expect(storage.stat(id)).rejects.toThrow(StoredFileMissingError);
      expect((await listed()).map((file) => file.id)).not.toContain(id);
      expect(await storage.sweepParts(-60_000), 'no part is left either').toBe(0);
    };

    test.for([
      ['an empty file', 0],
      ['one byte', 1],
      ['exactly one batch', MiB],
      ['20 MiB and a bit', 20 * MiB + 17],
    ] as const)('%s comes back byte for byte, with its size and SHA-256', async ([, size]) => {
      const bytes = randomBytes(size);
      const { id, ...stored } = await put(bytes);
      expect(stored).toEqual({ sizeBytes: size, sha256: sha256(bytes) });
      expect((await readAll(id)).equals(bytes)).toBe(true);
      expect((await storage.stat(id)).sizeBytes).toBe(size);
    });

    test('a file that arrives one byte at a time comes back byte for byte', async () => {
      const bytes = randomBytes(3_000);
      const id = uuidv7();
      await storage.put(id, Readable.from(slices(bytes, 1)), { sizeBytesMax: MiB });
      expect((await readAll(id)).equals(bytes)).toBe(true);
    });

    test('a range gives exactly its bytes, both ends included', async () => {
      const bytes = randomBytes(1_000);
      const { id } = await put(bytes);
      const ranges: [number, number][] = [
        [0, 0],
        [0, 99],
        [500, 500],
        [900, 999],
        [999, 999],
        [0, 999],
      ];
      for (const [start, end] of ranges) {
        expect(
          (await readAll(id, { start, end })).equals(bytes.subarray(start, end + 1)),
          `${start}-${end}`,
        ).toBe(true);
      }
    });

    test('a range that reaches past the end gives what there is', async () => {
      const { id } = await put(Buffer.from('0123456789'));
      expect((await readAll(id, { start: 8, end: 100 })).toString()).toBe('89');
      expect((await readAll(id, { start: 10, end: 100 })).toString()).toBe('');
      await expect(storage.read(id, { start: 5, end: 4 })).rejects.toThrow(RangeError);
    });

    test('a source that fails half-way leaves nothing, and its own error is thrown', async () => {
      const id = uuidv7();
      const failure = new Error('the client went away');
      const source = Readable.from(
        (async function* () {
          for (let i = 0; i < 48; i += 1) yield randomBytes(64 * 1024);
          throw failure;
        })(),
      );
      await expect(storage.put(id, source, { sizeBytesMax: 64 * MiB })).rejects.toBe(failure);
      await expectNothingUnder(id);
    });

    test('a source that had failed before it was read leaves nothing', async () => {
      const id = uuidv7();
      const failure = new Error('failed early');
      const source = new Readable({ read() {} });
      const result = storage.put(id, source, { sizeBytesMax: MiB });
      source.destroy(failure);
      await expect(result).rejects.toBe(failure);
      await expectNothingUnder(id);
    });

    test('a file of exactly the limit is stored, one byte more is refused and leaves nothing', async () => {
      const id = uuidv7();
      await storage.put(id, Readable.from([randomBytes(2 * MiB)]), { sizeBytesMax: 2 * MiB });
      const larger = uuidv7();
      const source = Readable.from(slices(randomBytes(2 * MiB + 1), 64 * 1024));
      const err = await storage.put(larger, source, { sizeBytesMax: 2 * MiB }).catch((err: unknown) => err);
      expect(err).toBeInstanceOf(AppError);
      expect(err).toMatchObject({
        code: 'content-too-large',
        message: 'The file is larger than 2097152 bytes (WINDLASS_FILE_BYTES_MAX).',
      });
      expect(source.destroyed, 'the source is closed').toBe(true);
      await expectNothingUnder(larger);
    });

    describe('of a file that is on disk already', () => {
      const putFile = async (bytes: Buffer, sizeBytesMax = 64 * MiB) => {
        const path = join(scratch, randomBytes(6).toString('hex'));
        writeFileSync(path, bytes);
        const id = uuidv7();
        const stored = await storage.putFile(id, path, { sizeBytesMax }).catch((err: unknown) => err);
        await waitFor(() => (isOpen(path) ? undefined : true), { what: 'the file to be closed' });
        return { id, stored };
      };

      test.for([0, 1, MiB, 3 * MiB + 5, 17 * MiB])('%d bytes are stored with their SHA-256', async (size) => {
        const bytes = randomBytes(size);
        const { id, stored } = await putFile(bytes);
        expect(stored).toEqual({ sizeBytes: size, sha256: sha256(bytes) });
        expect((await readAll(id)).equals(bytes)).toBe(true);
      });

      test.for([1, 17])(
        'one that is larger than it may be is refused, and leaves nothing (%d MiB)',
        async (size) => {
          const { id, stored } = await putFile(randomBytes(size * MiB), size * MiB - 1);
          expect(stored).toMatchObject({ code: 'content-too-large' });
          await expectNothingUnder(id);
        },
      );

      test('what is not there, or no plain file, is refused as what it is', async () => {
        const [file, symbolic, hard] = ['file', 'symbolic', 'hard'].map((name) => join(scratch, name));
        writeFileSync(file as string, 'x');
        symlinkSync(file as string, symbolic as string);
        const refuse = async (path: string | undefined) => {
          const id = uuidv7();
          const put = storage.putFile(id, path as string, { sizeBytesMax: MiB });
          const err: unknown = await put.catch((reason: unknown) => reason);
          await expectNothingUnder(id);
          expect(err).toBeInstanceOf(SourceFileError);
          return err instanceof Error ? err.cause : undefined;
        };
        expect(await refuse(join(scratch, 'nothing'))).toMatchObject({ code: 'ENOENT' });
        expect(await refuse(symbolic)).toMatchObject({ message: 'it is not a plain file' });
        expect(await refuse(scratch)).toMatchObject({ message: 'it is not a plain file' });
        linkSync(file as string, hard as string);
        expect(await refuse(hard)).toMatchObject({ message: 'it is a hard link to another file' });
      });

      test('an abort in the middle of a large one leaves nothing, and the file closed', async () => {
        const path = join(scratch, 'large');
        writeFileSync(path, randomBytes(40 * MiB));
        const id = uuidv7();
        const abort = new AbortController();
        const put = storage.putFile(id, path, { sizeBytesMax: 64 * MiB, signal: abort.signal });
        const ended = put.catch((err: unknown) => err);
        let isOver = false;
        void ended.then(() => (isOver = true));
        // Looked for without a pause: it takes a fraction of a second.
        while (!isOver && !isOpen(path)) await new Promise((resolve) => setImmediate(resolve));
        abort.abort(new Error('cancelled'));
        expect(await ended).toMatchObject({ message: 'cancelled' });
        await waitFor(() => (isOpen(path) ? undefined : true), { what: 'the file to be closed' });
        await expectNothingUnder(id);
      });

      test('an abort before it began leaves nothing', async () => {
        const path = join(scratch, 'file');
        writeFileSync(path, 'x');
        const id = uuidv7();
        const signal = AbortSignal.abort(new Error('cancelled'));
        await expect(storage.putFile(id, path, { sizeBytesMax: MiB, signal })).rejects.toThrow('cancelled');
        await expectNothingUnder(id);
      });
    });

    test('an abort while the source is silent ends the put with the reason, and leaves nothing', async () => {
      const id = uuidv7();
      const abort = new AbortController();
      const reason = new Error('shutting down');
      const source = new Readable({ read() {} });
      source.push(randomBytes(2 * MiB));
      const result = storage.put(id, source, { sizeBytesMax: 64 * MiB, signal: abort.signal });
      while (source.readableLength > 0) await new Promise((resolve) => setImmediate(resolve));
      abort.abort(reason);
      await expect(result).rejects.toBe(reason);
      expect(source.destroyed).toBe(true);
      await expectNothingUnder(id);
      await expect(
        storage.put(id, Readable.from(['x']), { sizeBytesMax: MiB, signal: abort.signal }),
      ).rejects.toBe(reason);
    });

    test('two puts of one id at once: one of them wins as a whole', async () => {
      const id = uuidv7();
      const candidates = [randomBytes(5 * MiB), randomBytes(3 * MiB)];
      await Promise.all(candidates.map((bytes) => put(bytes, id)));
      const stored = await readAll(id);
      expect(candidates.some((bytes) => bytes.equals(stored))).toBe(true);
      expect((await listed()).map((file) => file.id)).toEqual([id]);
    });

    test('a second put replaces the first as a whole, and a reader of the first still gets the first', async () => {
      const first = randomBytes(3 * MiB);
      const { id } = await put(first);
      const reading = await storage.read(id);
      const second = randomBytes(MiB);
      await put(second, id);
      expect((await buffer(reading)).equals(first)).toBe(true);
      expect((await readAll(id)).equals(second)).toBe(true);
    });

    test('a second put that fails leaves the first as it was', async () => {
      const first = randomBytes(MiB);
      const { id } = await put(first);
      await expect(storage.put(id, Readable.from([randomBytes(MiB)]), { sizeBytesMax: 10 })).rejects.toThrow(
        AppError,
      );
      expect((await readAll(id)).equals(first)).toBe(true);
    });

    test('deleting works, also what is not there', async () => {
      const { id } = await put(Buffer.from('x'));
      await storage.delete(id);
      await expect(storage.delete(id)).resolves.toBeUndefined();
      await expectNothingUnder(id);
    });

    test('what is missing is said to be missing', async () => {
      const id = uuidv7();
      await expect(storage.read(id)).rejects.toThrow(StoredFileMissingError);
      await expect(storage.stat(id)).rejects.toThrow(StoredFileMissingError);
      await expect(
        storage.materialize(id, join(scratch, 'x'), { sha256: sha256(Buffer.alloc(0)) }),
      ).rejects.toThrow(StoredFileMissingError);
    });

    // ASVS 5.3.2
    test.for([
      '../../etc/passwd',
      '..',
      '',
      'a/b',
      '0198c0de-0000-7000-8000-00000000000',
      '0198C0DE-0000-7000-8000-000000000001',
    ])('an id that is not one of ours never becomes a path: %j', async (id) => {
      const source = Readable.from(['x']);
      await expect(storage.put(id, source, { sizeBytesMax: 1 })).rejects.toThrow(TypeError);
      expect(source.destroyed, 'the source is closed').toBe(true);
      await expect(storage.read(id)).rejects.toThrow(TypeError);
      await expect(storage.stat(id)).rejects.toThrow(TypeError);
      await expect(storage.delete(id)).rejects.toThrow(TypeError);
      await expect(storage.materialize(id, join(scratch, 'x'), { sha256: '' })).rejects.toThrow(TypeError);
    });

    test('a materialized file has the bytes and may be read by everyone', async () => {
      const bytes = randomBytes(2 * MiB);
      const { id } = await put(bytes);
      const path = join(scratch, 'input');
      await storage.materialize(id, path, { sha256: sha256(bytes) });
      expect((await readFile(path)).equals(bytes)).toBe(true);
      expect((await stat(path)).mode & 0o004).toBe(0o004);
      await storage.delete(id);
      expect((await readFile(path)).equals(bytes), 'also after the file is deleted from storage').toBe(true);
    });

    test('materialize replaces nothing and follows no symbolic link', async () => {
      const { id, sha256 } = await put(Buffer.from('from storage'));
      const victim = join(scratch, 'victim');
      await writeFile(victim, 'precious');
      await chmod(victim, 0o600);
      const trap = join(scratch, 'trap');
      await symlink(victim, trap);
      await expect(storage.materialize(id, trap, { sha256 })).rejects.toThrow('EEXIST');
      await expect(storage.materialize(id, victim, { sha256 })).rejects.toThrow('EEXIST');
      expect(await readFile(victim, 'utf8')).toBe('precious');
      expect((await lstat(trap)).isSymbolicLink()).toBe(true);
    });

    test('materialize into a directory that is not there says that, not that the file is missing', async () => {
      const { id, sha256 } = await put(Buffer.from('x'));
      await expect(storage.materialize(id, join(scratch, 'nowhere', 'x'), { sha256 })).rejects.toThrow(
        'ENOENT',
      );
    });

    test('list names every stored file with the time of its writing', async () => {
      expect(await listed()).toEqual([]);
      const before = Date.now();
      const ids = (await Promise.all(Array.from({ length: 40 }, () => put(Buffer.from('x'))))).map(
        (file) => file.id,
      );
      const files = await listed();
      expect(files.map((file) => file.id).toSorted()).toEqual(ids.toSorted());
      // A file system's clock ticks coarsely and may be a little behind.
      for (const file of files) expect(file.modifiedAt.getTime()).toBeGreaterThan(before - 5_000);
    });

    test('sweepParts leaves the part of a put under way alone', async () => {
      const bytes = randomBytes(3 * MiB);
      const id = uuidv7();
      const source = new Readable({ read() {} });
      source.push(bytes);
      const result = storage.put(id, source, { sizeBytesMax: 64 * MiB });
      while (source.readableLength > 0) await new Promise((resolve) => setImmediate(resolve));
      expect(await storage.sweepParts(60_000)).toBe(0);
      source.push(null);
      await result;
      expect((await readAll(id)).equals(bytes)).toBe(true);
    });

    test('check says how full it is', async () => {
      const { usedShare } = await storage.check();
      if (usedShare === undefined) return;
      expect(usedShare).toBeGreaterThan(0);
      expect(usedShare).toBeLessThanOrEqual(1);
    });
  });
}

function* slices(bytes: Buffer, size: number): Iterable<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
