import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Writable, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { AppError } from '#shared/errors.ts';
import { notePassed } from '#shared/release-buffers.ts';
import { storageError } from './fs-errors.ts';

/** The first, the second and all others of a file: most are small, and a slow one should not hold much. */
const batchSizes = [64 * 1024, 256 * 1024, 1024 * 1024];
const [firstBatchBytes = 0] = batchSizes;
/** A slow upload is written at least this often, so that its part does not look abandoned (`sweepParts`). */
const batchMs = 5_000;

interface Batch {
  readonly bytes: Buffer;
  size: number;
  readonly startedAt: number;
}

/**
 * Writes all of `source` to the file and hashes it on the way. One batch is written by the thread pool while the
 * next one is received and hashed on this thread. Memory: two batches, and what the source holds.
 *
 * Not createWriteStream(), which writes each chunk by itself: a megabyte at a time leaves the thread pool to others. Bytes are
 * hashed and copied where they come in, while the processor has them at hand; their chunk is garbage at once, and young (see
 * release-buffers.ts). Not `for await`, which joins all chunks that wait: that is a second copy.
 * @throws AppError `content-too-large`; the signal's reason; whatever the source or the disk fails with. `source`
 *   is destroyed then; no write is under way.
 */
export async function writeStream(
  handle: FileHandle,
  source: Readable,
  options: { sizeBytesMax: number; signal?: AbortSignal },
): Promise<{ sizeBytes: number; sha256: string }> {
  const { sizeBytesMax, signal } = options;
  const hash = createHash('sha256');
  let sizeBytes = 0;
  let batch: Batch | undefined;
  let batches = 0;
  let writing: Promise<void> = Promise.resolve();

  /** @returns what does not fit any more. */
  function fill(chunk: Buffer): Buffer {
    batch ??= { bytes: takeBuffer(batches), size: 0, startedAt: performance.now() };
    const count = chunk.copy(batch.bytes, batch.size);
    batch.size += count;
    return chunk.subarray(count);
  }

  function isDue(): boolean {
    if (batch === undefined) return false;
    return batch.size === batch.bytes.length || performance.now() - batch.startedAt >= batchMs;
  }

  async function flush(): Promise<void> {
    await writing;
    // Given up meanwhile: whoever waits for the last write must not find another one under way.
    if (sink.destroyed || batch === undefined) return;
    // Named here: to `put` an error with which the pipeline closes the source is one of the source.
    writing = writeBatch(handle, batch).catch((err: unknown) => {
      throw storageError(err);
    });
    // A full disk ends the upload now, not when the next batch is due.
    writing.catch((err: unknown) => sink.destroy(err instanceof Error ? err : new Error(String(err))));
    batch = undefined;
    batches += 1;
  }

  /** The batch that was not written: nothing fills it any more once the sink is destroyed. */
  function giveUp(): void {
    if (batch !== undefined) giveBuffer(batch.bytes);
    batch = undefined;
  }

  async function flushAndFill(chunk: Buffer): Promise<void> {
    await flush();
    for (let rest = chunk; rest.length > 0 && !sink.destroyed;) {
      rest = fill(rest);
      if (rest.length > 0) await flush();
    }
  }

  const sink = new Writable({
    highWaterMark: firstBatchBytes,
    write(chunk: Buffer, _encoding, done) {
      sizeBytes += chunk.length;
      if (sizeBytes > sizeBytesMax) {
        done(tooLarge(sizeBytesMax));
        return;
      }
      hash.update(chunk);
      const rest = fill(chunk);
      notePassed(chunk.length);
      if (isDue()) callBack(flushAndFill(rest), done);
      else done();
    },
    final(done) {
      callBack(
        flush().then(() => writing),
        done,
      );
    },
  });
  try {
    await pipeline(source, sink, { ...(signal && { signal }) });
  } catch (err) {
    await writing.catch(() => {});
    giveUp();
    throw signal?.aborted === true ? signal.reason : err;
  }
  return { sizeBytes, sha256: hash.digest('hex') };
}

/** The message names the option that a client meets: every `sizeBytesMax` above it comes from there. */
export function tooLarge(sizeBytesMax: number): AppError {
  return new AppError(
    'content-too-large',
    `The file is larger than ${sizeBytesMax} bytes (WINDLASS_FILE_BYTES_MAX).`,
  );
}

function callBack(work: Promise<void>, done: (err?: Error) => void): void {
  // What a promise is rejected with here is an error of the disk. In the next tick: what `done` throws is no rejection.
  work.then(
    () => process.nextTick(done),
    (err: Error) => process.nextTick(done, err),
  );
}

async function writeBatch(handle: FileHandle, { bytes, size }: Batch): Promise<void> {
  // A short write is what a disk does that is about to be full; going on gives the reason as an error.
  for (let offset = 0; offset < size;)
    offset += (await handle.write(bytes, offset, size - offset)).bytesWritten;
  giveBuffer(bytes);
}

/**
 * Kept from one file to the next. To V8 each that is made is as many bytes to be collected, whatever is written into it; and the
 * kernel clears it page by page.
 */
const kept = new Map<number, Buffer[]>(batchSizes.map((size) => [size, []]));
const keptMax = 8;

/** @param number of the batch in its file, from 0. */
function takeBuffer(number: number): Buffer {
  const size = batchSizes[Math.min(number, batchSizes.length - 1)] ?? 0;
  const buffer = kept.get(size)?.pop();
  if (buffer !== undefined) return buffer;
  notePassed(size);
  return Buffer.allocUnsafeSlow(size);
}

function giveBuffer(buffer: Buffer): void {
  const others = kept.get(buffer.length);
  if (others !== undefined && others.length < keptMax) others.push(buffer);
}
