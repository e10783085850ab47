import { open } from 'node:fs/promises';

/** The bytes from `start`, at most `length` of them: what a reader of headers may ask for, however large the file is. */
export async function readPart(path: string, start: number, length: number): Promise<Buffer> {
  const handle = await open(path);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, start);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
