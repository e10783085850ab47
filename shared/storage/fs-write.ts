import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Transform, Writable, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { AppError } from '#shared/errors.ts';
import { storageError } from './fs-errors.ts';

const batchBytes = 1024 * 1024;
/** Below the kernel's IOV_MAX (1,024), and a bound on the objects kept when a client sends one byte at a time. */
const batchChunks = 256;
/** A slow upload is written at least this often, so that its part does not look abandoned (`sweepParts`). */
const batchMs = 5_000;

/**
 * Writes all of `source` to the file and hashes it on the way. One batch is written by the thread pool while the
 * next one is received and hashed on this thread. Memory: at most three batches.
 *
 * Not createWriteStream(), which writes each chunk by itself: a megabyte at a time leaves the thread pool to others.
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
  let batch: Buffer[] = [];
  let batchSize = 0;
  let batchStartedAt = performance.now();
  let writing: Promise<void> = Promise.resolve();

  async function flush(): Promise<void> {
    await writing;
    // Given up meanwhile: whoever waits for the last write must not find another one under way.
    if (sink.destroyed) return;
    // Named here: to `put` an error with which the pipeline closes the source is one of the source.
    writing = writeBatch(handle, batch, batchSize).catch((err: unknown) => {
      throw storageError(err);
    });
    // A full disk ends the upload now, not when the next batch is due.
    writing.catch((err: unknown) => sink.destroy(err instanceof Error ? err : new Error(String(err))));
    batch = [];
    batchSize = 0;
    batchStartedAt = performance.now();
  }

  // Hashed where they come in, while the processor has them at hand, and not after they have waited for the disk. Not `for await`,
  // which joins all chunks that wait: that copied every byte once more.
  const hashing = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      sizeBytes += chunk.length;
      if (sizeBytes > sizeBytesMax) {
        done(tooLarge(sizeBytesMax));
        return;
      }
      hash.update(chunk);
      done(null, chunk);
    },
  });
  const sink = new Writable({
    highWaterMark: batchBytes,
    write(chunk: Buffer, _encoding, done) {
      batch.push(chunk);
      batchSize += chunk.length;
      const isDue =
        batchSize >= batchBytes ||
        batch.length >= batchChunks ||
        performance.now() - batchStartedAt >= batchMs;
      if (isDue) callBack(flush(), done);
      else done();
    },
    final(done) {
      const flushed = batchSize > 0 ? flush() : Promise.resolve();
      callBack(
        flushed.then(() => writing),
        done,
      );
    },
  });
  try {
    await pipeline(source, hashing, sink, { ...(signal && { signal }) });
  } catch (err) {
    await writing.catch(() => {});
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

async function writeBatch(handle: FileHandle, chunks: Buffer[], size: number): Promise<void> {
  const { bytesWritten } = await handle.writev(chunks);
  if (bytesWritten === size) return;
  // A short write is what a disk does that is about to be full; going on gives the reason as an error.
  await handle.writeFile(Buffer.concat(chunks).subarray(bytesWritten));
}
