import type { Readable } from 'node:stream';

export interface Line {
  /** From 1; empty lines count. */
  readonly number: number;
  /** Without its end; undefined when it was longer than allowed, and was skipped. */
  readonly bytes: Buffer | undefined;
}

const lineFeed = 10;
const carriageReturn = 13;

/** The lines of a stream that are not empty, as they come. Never holds more than one of them and one chunk. */
export async function* readLines(stream: Readable, lineBytesMax: number): AsyncGenerator<Line, void> {
  let number = 1;
  let parts: Buffer[] = [];
  let size = 0;

  const keep = (part: Buffer): void => {
    size += part.length;
    if (size <= lineBytesMax) parts.push(part);
    else parts = [];
  };
  const take = (): Line | undefined => {
    const bytes = size > lineBytesMax ? undefined : trimEnd(Buffer.concat(parts));
    const line = { number, bytes };
    number += 1;
    parts = [];
    size = 0;
    return bytes?.length === 0 ? undefined : line;
  };

  for await (const chunk of stream as AsyncIterable<Buffer>) {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(lineFeed, start);
      keep(chunk.subarray(start, end === -1 ? undefined : end));
      if (end === -1) break;
      const line = take();
      if (line !== undefined) yield line;
      start = end + 1;
    }
  }
  // The last line needs no end of its own.
  const line = take();
  if (line !== undefined) yield line;
}

function trimEnd(bytes: Buffer): Buffer {
  return bytes.at(-1) === carriageReturn ? bytes.subarray(0, -1) : bytes;
}
