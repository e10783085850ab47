/** Which kind of archive a file is, by its bytes. */
import { detectType, headBytes } from '#shared/file-types/detect-type.ts';
import { readPart } from '#shared/file-types/read-part.ts';
import { InvalidInputError, type InputFile } from '#shared/tasks/define-task.ts';
import { gunzipFile } from './read-gzip.ts';
import type { ExtractResult } from './task.ts';

const blockBytes = 512;

/** An empty archive of tar(1) is 20 blocks of zeros; anything longer that begins with zeros is something else. */
const peekBytes = 64 * blockBytes;

/** @throws InvalidInputError saying what it is instead, and what zlib says of gzip data that is damaged at its beginning. */
export async function detectFormat(file: InputFile, signal: AbortSignal): Promise<ExtractResult['format']> {
  const head = await readPart(file.path, 0, peekBytes);
  const magic = head.toString('latin1', 0, 4);
  // Of an archive with entries, without any, and of one that was to be split and was not.
  if (['PK\x03\x04', 'PK\x05\x06', 'PK\x07\x08'].includes(magic)) return 'zip';
  if (magic.startsWith('\x1f\x8b')) {
    const inner = await peekInside(file.path, signal);
    return startsTar(inner, inner.length < peekBytes) ? 'tar.gz' : 'gzip';
  }
  if (startsTar(head, head.length === file.sizeBytes)) return 'tar';
  const whole = await readPart(file.path, 0, headBytes);
  const { mediaType } = await detectType(whole, whole.length === file.sizeBytes);
  throw new InvalidInputError(
    `"${file.name}" is of an unsupported type (${mediaType}, by its bytes); an archive must be ZIP, TAR, TAR.GZ or GZIP.`,
  );
}

/** The first bytes that come out of gzip data. */
async function peekInside(path: string, signal: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of gunzipFile(path)) {
    signal.throwIfAborted();
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes >= peekBytes) break;
  }
  return Buffer.concat(chunks).subarray(0, peekBytes);
}

/** Old archives have no magic number, but every header has a checksum: the sum of its bytes, itself taken for spaces. */
function startsTar(head: Buffer, isWhole: boolean): boolean {
  if (head.length < blockBytes) return false;
  if (head.every((byte) => byte === 0)) return isWhole && head.length % blockBytes === 0;
  const stated = Number.parseInt(head.toString('latin1', 148, 156).replaceAll('\0', ' ').trim(), 8);
  let sum = 8 * 0x20;
  for (const [at, byte] of head.subarray(0, blockBytes).entries()) if (at < 148 || at >= 156) sum += byte;
  return sum === stated;
}
