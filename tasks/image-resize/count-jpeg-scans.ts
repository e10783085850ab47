/**
 * How many scans a JPEG has. A progressive JPEG is sent in several scans, about ten in practice; each makes the
 * decoder walk over all of the image again. Thousands are possible, cost a few bytes each, and keep the decoder busy
 * for as long as the attacker likes: 480 kB took 24 s, and neither libvips nor its timeout stops it.
 *
 * Segments are skipped by their length, because embedded thumbnails have scans of their own.
 */
import { open, type FileHandle } from 'node:fs/promises';

const marker = { startOfImage: 0xd8, endOfImage: 0xd9, startOfScan: 0xda } as const;

/** Counts up to `max + 1`; a file that breaks off is counted as far as it goes. */
export async function countJpegScans(path: string, max: number): Promise<number> {
  const handle = await open(path);
  try {
    const bytes = new ByteReader(handle);
    let scans = 0;
    while (scans <= max) {
      const code = await nextMarker(bytes);
      if (code === undefined || code === marker.endOfImage) break;
      if (code === marker.startOfScan) scans += 1;
      if (code !== marker.startOfImage) {
        const length = ((await bytes.next()) ?? 0) * 256 + ((await bytes.next()) ?? 0);
        bytes.skip(Math.max(length - 2, 0));
      }
    }
    return scans;
  } finally {
    await handle.close();
  }
}

/** The next marker with a segment of its own; walks over entropy-coded data with its stuffed zeros and restarts. */
async function nextMarker(bytes: ByteReader): Promise<number | undefined> {
  while (await bytes.skipTo(0xff)) {
    let code = await bytes.next();
    while (code === 0xff) code = await bytes.next();
    const isRestart = code !== undefined && code >= 0xd0 && code <= 0xd7;
    if (code !== 0 && !isRestart) return code;
  }
  return undefined;
}

class ByteReader {
  private readonly handle: FileHandle;
  private readonly buffer = Buffer.alloc(64 * 1024);
  private chunk: Buffer = this.buffer.subarray(0, 0);
  private offset = 0;
  private position = 0;

  constructor(handle: FileHandle) {
    this.handle = handle;
  }

  async next(): Promise<number | undefined> {
    if (this.offset >= this.chunk.length && !(await this.fill())) return undefined;
    const byte = this.chunk[this.offset];
    this.offset += 1;
    return byte;
  }

  skip(count: number): void {
    this.offset += count;
  }

  /** Goes behind the next `byte`. @returns false at the end of the file. */
  async skipTo(byte: number): Promise<boolean> {
    for (;;) {
      const found = this.offset < this.chunk.length ? this.chunk.indexOf(byte, this.offset) : -1;
      if (found >= 0) {
        this.offset = found + 1;
        return true;
      }
      this.offset = Math.max(this.offset, this.chunk.length);
      if (!(await this.fill())) return false;
    }
  }

  /** Reads on from where `offset` points to, which may lie beyond the chunk. */
  private async fill(): Promise<boolean> {
    this.position += this.offset;
    const { bytesRead } = await this.handle.read(this.buffer, 0, this.buffer.length, this.position);
    this.chunk = this.buffer.subarray(0, bytesRead);
    this.offset = 0;
    return bytesRead > 0;
  }
}
