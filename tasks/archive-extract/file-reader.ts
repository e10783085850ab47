import { createReadStream, read } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { RandomAccessReader } from 'yauzl';

/**
 * How yauzl reads a file. Its own way asks the system for whatever place an archive names, and a place beyond all numbers is
 * thrown where nobody can catch it, which would end the process.
 */
export class FileReader extends RandomAccessReader {
  readonly #handle: FileHandle;
  readonly #file: { readonly path: string; readonly sizeBytes: number };

  constructor(handle: FileHandle, file: { readonly path: string; readonly sizeBytes: number }) {
    super();
    this.#handle = handle;
    this.#file = file;
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (err: Error | null, bytesRead?: number) => void,
  ): void {
    if (position < 0 || position + length > this.#file.sizeBytes) {
      callback(new Error(`it says that something is at byte ${position}, which is behind its end.`));
      return;
    }
    read(this.#handle.fd, buffer, offset, length, position, callback);
  }

  override _readStreamForRange(start: number, end: number): Readable {
    return createReadStream(this.#file.path, { start, end: end - 1 });
  }
}
