/**
 * Brings a text file to UTF-8, which is all that DuckDB reads. A file that is UTF-8 already is used where it lies.
 *
 * In order: the encoding that the caller names; a byte order mark; the zero bytes of UTF-16 without a mark; UTF-8
 * if the bytes are; else Windows-1252, which is what the world means by "Latin-1". A file that is UTF-8 but for a few
 * broken bytes stays UTF-8, with U+FFFD in their place, instead of having every umlaut in it garbled.
 */
import { isAscii, isUtf8 } from 'node:buffer';
import { createReadStream, createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { InvalidInputError } from '#shared/tasks/define-task.ts';

export interface Utf8Text {
  readonly path: string;
  /** What the file was in, as a label of the WHATWG Encoding Standard. */
  readonly encoding: string;
}

/**
 * @param options `declared` is a label of the WHATWG Encoding Standard; `name` is for messages; `scratchPath` is
 *   written when the file has to be converted.
 * @throws InvalidInputError when the file holds no text.
 */
export async function toUtf8(
  path: string,
  options: { declared?: string | undefined; name: string; scratchPath: string; signal: AbortSignal },
): Promise<Utf8Text> {
  const { declared, name, scratchPath, signal } = options;
  const named = declared === undefined ? undefined : new TextDecoder(declared).encoding;
  const isGuessed = named === undefined || named === 'utf-8';
  const found = isGuessed ? await detectEncoding(path, { name, signal }) : undefined;
  const encoding = named ?? found?.encoding ?? 'utf-8';
  if (encoding === 'utf-8' && found?.encoding === 'utf-8' && !found.isBroken) return { path, encoding };
  const decoder = new TextDecoder(encoding);
  const decoded = async function* (chunks: AsyncIterable<Buffer>) {
    for await (const chunk of chunks) yield decoder.decode(chunk, { stream: true });
    yield decoder.decode();
  };
  await pipeline(createReadStream(path), decoded, createWriteStream(scratchPath), { signal });
  return { path: scratchPath, encoding };
}

/** The text of a UTF-8 file, piece by piece, without its byte order mark. */
export async function* readUtf8(path: string, signal: AbortSignal): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 18, signal })) {
    yield decoder.decode(chunk, { stream: true });
  }
  yield decoder.decode();
}

const headBytes = 4096;

async function detectEncoding(
  path: string,
  options: { name: string; signal: AbortSignal },
): Promise<{ encoding: string; isBroken: boolean }> {
  const head = await readHead(path);
  const mark = findByteOrderMark(head);
  if (mark !== undefined && mark !== 'utf-8') return { encoding: mark, isBroken: false };
  const wide = findUtf16WithoutMark(head);
  if (wide !== undefined) return { encoding: wide, isBroken: false };
  refuseBinary(head, options.name);

  const { broken, multibyte } = await countSequences(path, options.signal);
  if (broken === 0) return { encoding: 'utf-8', isBroken: false };
  if (mark === 'utf-8' || multibyte > broken) return { encoding: 'utf-8', isBroken: true };
  return { encoding: 'windows-1252', isBroken: false };
}

function findByteOrderMark(head: Buffer): string | undefined {
  if (head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf) return 'utf-8';
  if (head[0] === 0xff && head[1] === 0xfe) return 'utf-16le';
  if (head[0] === 0xfe && head[1] === 0xff) return 'utf-16be';
  return undefined;
}

/** Western text in UTF-16 has a zero in every other byte: the even ones when big-endian, else the odd ones. */
function findUtf16WithoutMark(head: Buffer): string | undefined {
  const zeros = [0, 0];
  for (const [index, byte] of head.entries()) if (byte === 0) zeros[index % 2] = (zeros[index % 2] ?? 0) + 1;
  const [even = 0, odd = 0] = zeros;
  const many = head.length * 0.2;
  if (odd > many && even < many / 10) return 'utf-16le';
  if (even > many && odd < many / 10) return 'utf-16be';
  return undefined;
}

/** Text holds hardly any control characters besides tabs and line ends; nearly every binary format does. */
function refuseBinary(head: Buffer, name: string): void {
  const controls = head.filter((byte) => byte < 32 && ![9, 10, 12, 13].includes(byte)).length;
  if (controls <= Math.max(4, head.length * 0.05)) return;
  throw new InvalidInputError(
    `"${name}" holds binary data, not text. Send CSV, TSV, JSON, NDJSON or Parquet: unpack archives, export workbooks as CSV.`,
  );
}

/** How many sequences are no UTF-8, and how many are UTF-8 of more than one byte. */
async function countSequences(
  path: string,
  signal: AbortSignal,
): Promise<{ broken: number; multibyte: number }> {
  let broken = 0;
  let multibyte = 0;
  let carried: Buffer = Buffer.alloc(0);
  const countIn = (bytes: Buffer) => {
    if (isAscii(bytes)) return;
    const found = isUtf8(bytes) ? 0 : countOf('\uFFFD', bytes.toString('utf8'));
    broken += found;
    // In text that is no UTF-8, a byte that begins a sequence mostly begins a broken one.
    multibyte += Math.max(0, countLeadBytes(bytes) - found);
  };
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 18, signal })) {
    const bytes: Buffer = Buffer.concat([carried, chunk]);
    const whole = bytes.length - unfinishedTail(bytes);
    countIn(bytes.subarray(0, whole));
    carried = bytes.subarray(whole);
  }
  countIn(carried);
  return { broken, multibyte };
}

/** How many bytes at the end begin a sequence that the next chunk ends. */
function unfinishedTail(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue;
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? back : 0;
  }
  return 0;
}

function countLeadBytes(bytes: Buffer): number {
  let count = 0;
  for (const byte of bytes) if (byte >= 0xc2 && byte <= 0xf4) count += 1;
  return count;
}

function countOf(character: string, text: string): number {
  let count = 0;
  for (let at = text.indexOf(character); at !== -1; at = text.indexOf(character, at + 1)) count += 1;
  return count;
}

async function readHead(path: string): Promise<Buffer> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(headBytes), 0, headBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
