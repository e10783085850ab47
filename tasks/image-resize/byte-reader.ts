import { open, type FileHandle } from 'node:fs/promises';

/** Walks forward through a file byte by byte, a chunk in memory at a time, and skips without reading. */
export class ByteReader {
  private readonly handle: FileHandle;
  private readonly buffer = Buffer.alloc(64 * 1024);
  private chunk: Buffer = this.buffer.subarray(0, 0);
  private offset = 0;
  private position = 0;

  private constructor(handle: FileHandle) {
    this.handle = handle;
  }

  static async open(path: string): Promise<ByteReader> {
    return new ByteReader(await open(path));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
  }

  /** @returns undefined at the end of the file. */
  async next(): Promise<number | undefined> {
    if (this.offset >= this.chunk.length && !(await this.fill())) return undefined;
    const byte = this.chunk[this.offset];
    this.offset += 1;
    return byte;
  }

  /** Reads nothing: how far it goes, and whether the file is that long, shows at the next `next`. */
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
