import { Readable } from 'node:stream';

/** What waits in memory for the reader of a file, apart from the chunk that is being parsed. */
const bufferBytes = 256 * 1024;

/** One file of a form, between the parser that finds its bytes and the reader that stores them. */
export interface FileBuffer {
  readonly stream: Readable;
  push(chunk: Buffer): void;
  end(): void;
  fail(error: unknown): void;
  /** Resolves when the reader has caught up, or will read no more. */
  waitForRoom(): Promise<void>;
}

export function createFileBuffer(): FileBuffer {
  let isEnded = false;
  let wake = (): void => {};
  const stream = new Readable({
    highWaterMark: bufferBytes,
    read: () => wake(),
    destroy(err, done) {
      wake();
      done(err);
    },
  });
  // A failure before the reader listens is not lost: reading a failed stream throws its error.
  stream.on('error', () => {});

  return {
    stream,
    push(chunk) {
      stream.push(chunk);
    },
    end() {
      isEnded = true;
      stream.push(null);
      wake();
    },
    fail(error) {
      if (!isEnded) stream.destroy(error instanceof Error ? error : new Error(String(error)));
    },
    async waitForRoom() {
      while (!isEnded && !stream.destroyed && stream.readableLength >= bufferBytes) {
        await new Promise<void>((resolve) => (wake = resolve));
      }
    },
  };
}
