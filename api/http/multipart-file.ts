import { Readable } from 'node:stream';

/** What waits in memory for the reader of a file, apart from the chunk that is being parsed. */
const bufferBytes = 256 * 1024;

/** One file of a form, between the parser that finds its bytes and the reader that stores them. */
export interface FileBuffer {
  readonly stream: Readable;
  fail(error: unknown): void;
  /** Resolves when the reader has caught up, or will read no more. */
  waitForRoom(): Promise<void>;
}

/** Takes everything from `part` as it comes: the parser is held back by `waitForRoom`, not by the part. */
export function createFileBuffer(part: Readable): FileBuffer {
  let wake = (): void => {};
  const stream = new Readable({
    highWaterMark: bufferBytes,
    read: () => wake(),
    // Also when all of it was read.
    destroy(err, done) {
      wake();
      done(err);
    },
  });
  // A failure before the reader listens is not lost: reading a failed stream throws its error.
  stream.on('error', () => {});

  part.on('data', (chunk: Buffer) => void stream.push(chunk));
  part.on('end', () => void stream.push(null));

  // The part hands on what it holds in its next tick, which may be later than the next chunk of the body.
  const isFull = (): boolean =>
    !stream.destroyed && stream.readableLength + part.readableLength >= bufferBytes;

  return {
    stream,
    fail(error) {
      stream.destroy(error instanceof Error ? error : new Error(String(error)));
    },
    async waitForRoom() {
      while (isFull()) await new Promise<void>((resolve) => (wake = resolve));
    },
  };
}
