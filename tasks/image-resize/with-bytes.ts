import { closeSync, openSync, readSync } from 'node:fs';
import type { InputFile } from '#shared/tasks/define-task.ts';

/** Files up to this many bytes are read at once: libvips reads small pieces, and again for each time it opens the file. */
const bufferBytesMax = 8 * 1024 * 1024;

const roundBytes = 1024 * 1024;

/**
 * What the last file was read into, for the next one. V8 counts the memory of buffers as its own: a new one for each photo made
 * it collect all of its heap every fifty thumbnails.
 */
let kept: Buffer | undefined;

/**
 * Lends `use` what sharp reads: the bytes of a file, which must not be kept (the next one overwrites them), or the path of a large file. Blocks
 * while it reads: there is nothing else to do.
 */
export async function withBytes<Result>(
  file: InputFile,
  use: (bytes: Buffer | string) => Promise<Result>,
): Promise<Result> {
  if (file.sizeBytes > bufferBytesMax) return use(file.path);
  const buffer =
    kept !== undefined && kept.length >= file.sizeBytes
      ? kept
      : Buffer.allocUnsafeSlow(roundUp(file.sizeBytes));
  // Who runs at the same time has one of its own.
  kept = undefined;
  try {
    return await use(buffer.subarray(0, readInto(buffer, file)));
  } finally {
    kept = buffer;
  }
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / roundBytes) * roundBytes;
}

/** @returns how many bytes there were. */
function readInto(buffer: Buffer, file: InputFile): number {
  const fd = openSync(file.path, 'r');
  try {
    let total = 0;
    for (let count = -1; count !== 0; total += count)
      count = readSync(fd, buffer, total, file.sizeBytes - total, null);
    return total;
  } finally {
    closeSync(fd);
  }
}
