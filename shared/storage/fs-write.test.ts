import { randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { expect, onTestFinished, test, vi } from 'vitest';
import { writeStream } from './fs-write.ts';

const MiB = 1024 * 1024;

interface Disk {
  readonly handle: FileHandle;
  readonly writes: Buffer[];
}

/** @param write says how many of `length` bytes a write takes, or fails. */
function createDisk(write: (length: number, count: number) => number | Promise<number>): Disk {
  const writes: Buffer[] = [];
  let count = 0;
  const handle = {
    async write(bytes: Buffer, offset: number, length: number) {
      count += 1;
      const bytesWritten = await write(length, count);
      // Copied: what it was given is used again.
      writes.push(Buffer.from(bytes.subarray(offset, offset + bytesWritten)));
      return { bytesWritten };
    },
  };
  return { handle: handle as unknown as FileHandle, writes };
}

test.for([
  { what: 'one chunk over several batches', sizes: [3 * MiB + 5] },
  { what: 'chunks that end with a batch', sizes: [64 * 1024, MiB, 1, MiB - 1, 0, MiB] },
  { what: 'chunks of a socket', sizes: Array.from({ length: 70 }, () => 65_521) },
])('$what are written in order, also by a disk that takes half', async ({ sizes }) => {
  const chunks = sizes.map((size) => randomBytes(size));
  const disk = createDisk((length) => Math.ceil(length / 2));
  const stored = await writeStream(disk.handle, Readable.from(chunks), { sizeBytesMax: 64 * MiB });
  expect(stored.sizeBytes).toBe(sizes.reduce((sum, size) => sum + size, 0));
  expect(Buffer.concat(disk.writes).equals(Buffer.concat(chunks))).toBe(true);
});

test('many small chunks are a few writes', async () => {
  const disk = createDisk((length) => length);
  await writeStream(
    disk.handle,
    Readable.from(Array.from({ length: 20_000 }, () => Buffer.alloc(100, 'x'))),
    {
      sizeBytesMax: 64 * MiB,
    },
  );
  const first = [64 * 1024, 256 * 1024, MiB];
  const rest = 20_000 * 100 - first.reduce((sum, size) => sum + size, 0);
  expect(disk.writes.map((bytes) => bytes.length)).toEqual([...first, rest]);
});

test('uploads that break off leave their buffers to the next ones', async () => {
  const disk = createDisk((length) => length);
  const upload = async () => {
    async function* breakOff() {
      yield randomBytes(400 * 1024);
      throw new Error('gone');
    }
    const written = writeStream(disk.handle, Readable.from(breakOff()), { sizeBytesMax: 64 * MiB });
    await expect(written).rejects.toThrow('gone');
  };
  await upload();
  const allocate = vi.spyOn(Buffer, 'allocUnsafeSlow');
  onTestFinished(() => allocate.mockRestore());
  for (let count = 0; count < 20; count += 1) await upload();
  expect(allocate).not.toHaveBeenCalled();
});

const large = () => Readable.from([randomBytes(8 * MiB)]);
const limits = { sizeBytesMax: 64 * MiB };
const noSpace = () => Promise.reject(Object.assign(new Error('no space left'), { code: 'ENOSPC' }));

test('a disk that fills up ends it at once, in the middle of a chunk, and while the client is silent', async () => {
  const full = createDisk((length, count) => (count === 1 ? length : noSpace()));
  await expect(writeStream(full.handle, large(), limits)).rejects.toMatchObject({ code: 'storage-full' });
  const silent = new Readable({ read() {} });
  silent.push(randomBytes(100 * 1024));
  const written = writeStream(createDisk(noSpace).handle, silent, limits);
  await expect(written).rejects.toMatchObject({ code: 'storage-full' });
  expect(silent.destroyed).toBe(true);
});

test('an abort waits for the write that is under way, and begins no other', async () => {
  const abort = new AbortController();
  let begun = 0;
  let ended = 0;
  const disk = createDisk(async (length) => {
    begun += 1;
    if (begun === 2) setTimeout(() => abort.abort(new Error('cancelled')), 5);
    await new Promise((resolve) => setTimeout(resolve, 20));
    ended += 1;
    return length;
  });
  const written = writeStream(disk.handle, large(), { ...limits, signal: abort.signal });
  await expect(written).rejects.toThrow('cancelled');
  expect(begun).toBe(ended);
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(begun).toBe(2);
});

test('a slow upload is written every few seconds', async () => {
  const disk = createDisk((length) => length);
  const source = new Readable({ read() {} });
  const written = writeStream(disk.handle, source, limits);
  const startedMs = performance.now();
  const now = vi.spyOn(performance, 'now');
  onTestFinished(() => now.mockRestore());
  for (const [second, bytes] of [
    [0, 0],
    [4, 0],
    [6, 3],
  ] as const) {
    now.mockReturnValue(startedMs + second * 1_000);
    source.push('x');
    for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    expect(disk.writes.reduce((sum, write) => sum + write.length, 0)).toBe(bytes);
  }
  source.push(null);
  await written;
});
