import { InvalidInputError, type InputFile, type OutputLimits } from '#shared/tasks/define-task.ts';
import { ratioFreeBytes } from './limits.ts';
import type { ExtractInput } from './task.ts';

/** Counts bytes where they come out, so that no size in a header has to be believed. All throw InvalidInputError. */
export interface ByteBudget {
  /** Before anything is written: what all files have together, as the archive says. */
  announceAll(statedBytes: number): void;
  /** A file is about to be written, of this size as the archive says: refused where it admits to be too much. */
  beginFile(path: string, statedBytes: number): void;
  /** These bytes of it are about to be written. */
  written(bytes: number): void;
  /** These came out of the packing, wanted or not. */
  unpacked(bytes: number): void;
}

export function createByteBudget(
  file: InputFile,
  { bytesMax, ratioMax }: Pick<ExtractInput, 'bytesMax' | 'ratioMax'>,
  { outputFileBytesMax }: OutputLimits,
): ByteBudget {
  let unpackedBytes = 0;
  let writtenBytes = 0;
  let fileBytes = 0;
  let filePath = '';

  function refuseFile(bytes: number): void {
    if (bytes > outputFileBytesMax) {
      throw new InvalidInputError(
        `"${filePath}" in "${file.name}" has more than ${outputFileBytesMax} bytes, the most that a stored file may have (WINDLASS_FILE_BYTES_MAX).`,
      );
    }
  }
  function refuseTotal(bytes: number): void {
    if (bytes > bytesMax) {
      throw new InvalidInputError(
        `The files in "${file.name}" have more than ${bytesMax} bytes together (\`bytesMax\`). Choose fewer with \`include\`, or allow more.`,
      );
    }
  }
  return {
    unpacked(bytes) {
      unpackedBytes += bytes;
      if (unpackedBytes > ratioFreeBytes && unpackedBytes > file.sizeBytes * ratioMax) {
        throw new InvalidInputError(
          `"${file.name}" unpacks to more than ${ratioMax} times its size (\`ratioMax\`), as a bomb does.`,
        );
      }
    },
    announceAll: refuseTotal,
    beginFile(path, statedBytes) {
      filePath = path;
      fileBytes = 0;
      refuseFile(statedBytes);
      refuseTotal(writtenBytes + statedBytes);
    },
    written(bytes) {
      fileBytes += bytes;
      writtenBytes += bytes;
      refuseFile(fileBytes);
      refuseTotal(writtenBytes);
    },
  };
}
