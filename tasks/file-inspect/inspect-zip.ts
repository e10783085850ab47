/**
 * The directory of a ZIP archive (PKWARE's APPNOTE): names and sizes, as they say of themselves. Nothing is unpacked, so
 * a bomb costs no more than any other archive.
 *
 * The end record lies behind everything, followed by a comment of up to 64 KiB; it says where the directory is.
 */
import { cleanText } from '#shared/domain/text.ts';
import { readPart } from '#shared/file-types/read-part.ts';
import type { Inspection } from './task.ts';

const endRecordBytes = 22;
const commentBytesMax = 65_535;
const signature = { end: 0x06054b50, end64: 0x06064b50, locator64: 0x07064b50, entry: 0x02014b50 } as const;

/** Read of the directory: room for some 80,000 entries. */
const directoryBytesMax = 8 * 1024 * 1024;
export const zipNamesMax = 100;
const nameCharactersMax = 255;

/** @returns undefined when the file has no end record: it is no ZIP archive, or was cut off. */
export async function inspectZip(
  path: string,
  sizeBytes: number,
  warnings: string[],
): Promise<Inspection['archive']> {
  const place = await findDirectory(path, sizeBytes);
  if (place === undefined) return undefined;
  const directory = await readPart(path, place.offset, Math.min(place.bytes, directoryBytesMax));

  const names: string[] = [];
  let uncompressedBytes = 0;
  let seen = 0;
  let isEncrypted = false;
  let at = 0;
  while (at + 46 <= directory.length && directory.readUInt32LE(at) === signature.entry) {
    const nameBytes = directory.readUInt16LE(at + 28);
    const extraBytes = directory.readUInt16LE(at + 30);
    const name = directory.subarray(at + 46, at + 46 + nameBytes);
    const size = directory.readUInt32LE(at + 24);
    const extra = directory.subarray(at + 46 + nameBytes, at + 46 + nameBytes + extraBytes);
    uncompressedBytes += size === 0xffff_ffff ? size64(extra) : size;
    isEncrypted ||= (directory.readUInt16LE(at + 8) & 1) === 1;
    if (names.length < zipNamesMax) names.push(cleanText(decodeName(name), nameCharactersMax));
    seen += 1;
    at += 46 + nameBytes + extraBytes + directory.readUInt16LE(at + 32);
  }
  if (seen < place.entries && place.bytes > directoryBytesMax) {
    warnings.push(
      `The archive's directory is too large to be read; ${seen} of ${place.entries} entries were looked at.`,
    );
  } else if (seen !== place.entries) {
    warnings.push(`The archive says that it has ${place.entries} entries, but ${seen} were found.`);
  }
  return {
    entries: place.entries,
    uncompressedBytes: Math.min(uncompressedBytes, Number.MAX_SAFE_INTEGER),
    isEncrypted,
    names,
  };
}

interface DirectoryPlace {
  readonly entries: number;
  readonly bytes: number;
  readonly offset: number;
}

async function findDirectory(path: string, sizeBytes: number): Promise<DirectoryPlace | undefined> {
  const tailBytes = Math.min(sizeBytes, endRecordBytes + commentBytesMax);
  const tail = await readPart(path, sizeBytes - tailBytes, tailBytes);
  for (let at = tail.length - endRecordBytes; at >= 0; at -= 1) {
    if (tail.readUInt32LE(at) !== signature.end) continue;
    const end = sizeBytes - tailBytes + at;
    const place = {
      entries: tail.readUInt16LE(at + 10),
      bytes: tail.readUInt32LE(at + 12),
      offset: tail.readUInt32LE(at + 16),
    };
    const isLarge = place.entries === 0xffff || place.bytes === 0xffff_ffff || place.offset === 0xffff_ffff;
    const large = isLarge ? await findDirectory64(path, end) : undefined;
    if (large !== undefined) return large;
    // Behind other data (a self-extracting program, a picture) all offsets are off; the directory still ends here.
    return { ...place, offset: Math.max(end - place.bytes, 0) };
  }
  return undefined;
}

/** ZIP64: a locator of 20 bytes before the end record points to a larger one. */
async function findDirectory64(path: string, end: number): Promise<DirectoryPlace | undefined> {
  if (end < 20) return undefined;
  const locator = await readPart(path, end - 20, 20);
  if (locator.readUInt32LE(0) !== signature.locator64) return undefined;
  const record = await readPart(path, safeNumber(locator.readBigUInt64LE(8)), 56);
  if (record.length < 56 || record.readUInt32LE(0) !== signature.end64) return undefined;
  return {
    entries: safeNumber(record.readBigUInt64LE(32)),
    bytes: safeNumber(record.readBigUInt64LE(40)),
    offset: safeNumber(record.readBigUInt64LE(48)),
  };
}

/** The extra field 1 begins with the size of an entry of 4 GiB and more. */
function size64(extra: Buffer): number {
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) === 1 && at + 12 <= extra.length)
      return safeNumber(extra.readBigUInt64LE(at + 4));
  }
  return 0;
}

function safeNumber(value: bigint): number {
  return Number(value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : value);
}

/** UTF-8 where it is; otherwise byte for byte, since the code page of the one who packed it is unknown. */
function decodeName(bytes: Buffer): string {
  const text = bytes.toString('utf8');
  return text.includes('\ufffd') ? bytes.toString('latin1') : text;
}
