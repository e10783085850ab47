/**
 * ZIP archives (PKWARE's APPNOTE), by their directory at the end. yauzl reads it and holds the size of every entry against
 * what comes out; that entries do not overlap, that the directory names all of them, and their checksums are looked at here.
 */
import { isUtf8 } from 'node:buffer';
import { open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { readPart } from '#shared/file-types/read-part.ts';
import { InvalidInputError, type InputFile } from '#shared/tasks/define-task.ts';
import { fromRandomAccessReaderPromise, getFileNameLowLevel, type Entry, type ZipFile } from 'yauzl';
import type { ArchiveEntry } from './archive-entry.ts';
import { damagedError } from './damaged-error.ts';
import { FileReader } from './file-reader.ts';
import { directoryBytesMax, entriesMax } from './limits.ts';

export interface ZipArchive {
  readonly entries: readonly ArchiveEntry[];
  close(): Promise<void>;
}

/** @throws InvalidInputError, and Error of yauzl for what is damaged. */
export async function openZip(file: InputFile, signal: AbortSignal): Promise<ZipArchive> {
  const handle = await open(file.path);
  try {
    // Undecoded: one hostile name would end the reading of all others, and hardly any program tells its encoding.
    const options = { autoClose: false, decodeStrings: false };
    const reader = new FileReader(handle, file);
    const zip = await fromRandomAccessReaderPromise(reader, file.sizeBytes, options);
    const directoryStart = zip.readEntryCursor as unknown as number;
    const found = await readDirectory(file, zip, signal);
    const ends = findEnds(file, found, directoryStart);
    return {
      entries: found.map((entry) => toArchiveEntry(file, zip, entry, ends.get(entry) ?? 0)),
      close: () => handle.close(),
    };
  } catch (err) {
    await handle.close();
    throw err;
  }
}

async function readDirectory(file: InputFile, zip: ZipFile, signal: AbortSignal): Promise<Entry[]> {
  if (zip.entryCount > entriesMax) {
    throw new InvalidInputError(
      `"${file.name}" has ${zip.entryCount} entries; an archive may have at most ${entriesMax}.`,
    );
  }
  const found: Entry[] = [];
  let bytes = 0;
  for await (const entry of zip.eachEntry()) {
    signal.throwIfAborted();
    bytes += 46 + entry.fileNameLength + entry.extraFieldLength + entry.fileCommentLength;
    if (bytes > directoryBytesMax) {
      throw new InvalidInputError(
        `The names and comments in "${file.name}" have more than ${directoryBytesMax} bytes together, which is the most that is read.`,
      );
    }
    found.push(entry);
  }
  // The number of entries is stored modulo 65,536 by programs that do not know better: the rest would be lost.
  const behind = await readPart(file.path, zip.readEntryCursor as unknown as number, 4);
  if (behind.toString('latin1') === 'PK\x01\x02')
    throw damagedError(file, `its directory has more entries than the ${zip.entryCount} that it says.`);
  return found;
}

const localHeaderBytes = 30;

/**
 * Where each entry has to end: where the next one begins, or the directory. Entries that share their bytes are how a few
 * kilobytes become petabytes, and no program writes them.
 */
function findEnds(file: InputFile, found: readonly Entry[], directoryStart: number): Map<Entry, number> {
  const byPlace = found.toSorted((a, b) => a.relativeOffsetOfLocalHeader - b.relativeOffsetOfLocalHeader);
  const ends = new Map<Entry, number>();
  for (const [index, entry] of byPlace.entries()) {
    const end = byPlace[index + 1]?.relativeOffsetOfLocalHeader ?? directoryStart;
    if (entry.relativeOffsetOfLocalHeader + localHeaderBytes + entry.compressedSize > end)
      throw overlapError(file, entry);
    ends.set(entry, end);
  }
  return ends;
}

function overlapError(file: InputFile, entry: Entry): InvalidInputError {
  return damagedError(file, `the entry "${nameOf(entry)}" overlaps with what comes after it.`);
}

function toArchiveEntry(file: InputFile, zip: ZipFile, entry: Entry, end: number): ArchiveEntry {
  const rawPath = nameOf(entry);
  return {
    rawPath,
    kind: kindOf(entry, rawPath),
    statedBytes: entry.uncompressedSize,
    async *read() {
      refuseUnreadable(file, entry);
      const { fileDataStart } = await zip.readLocalFileHeaderPromise(entry, { minimal: true });
      // Exactly, now that the length of the local header is known.
      if (fileDataStart + entry.compressedSize > end) throw overlapError(file, entry);
      const stream = await zip.openReadStreamPromise(entry);
      let checksum = 0;
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        checksum = crc32(chunk, checksum);
        yield chunk;
      }
      if (checksum !== entry.crc32)
        throw damagedError(file, `the checksum (CRC-32) of the entry "${rawPath}" does not match its bytes.`);
    },
  };
}

/** UTF-8 where it is, whatever the flag says; otherwise the extra field for it, or code page 437. Backslashes are slashes. */
function nameOf(entry: Entry): string {
  const utf8Flag = isUtf8(entry.fileNameRaw) ? 0x800 : 0;
  return getFileNameLowLevel(utf8Flag, entry.fileNameRaw, entry.extraFields, false);
}

/** The upper half of the attributes is the mode of Unix, where the one who packed had one. */
function kindOf(entry: Entry, path: string): ArchiveEntry['kind'] {
  switch ((entry.externalFileAttributes >>> 16) & 0o170_000) {
    case 0o120_000:
      return 'link';
    case 0o020_000:
    case 0o060_000:
    case 0o140_000:
      return 'device';
    case 0o010_000:
      // What Info-ZIP packed from its standard input says that it is a pipe, and has bytes.
      return entry.uncompressedSize > 0 ? 'file' : 'device';
    case 0o040_000:
      return 'directory';
    default:
      return path.endsWith('/') ? 'directory' : 'file';
  }
}

const methodNames: Readonly<Record<number, string>> = {
  1: 'shrink',
  6: 'implode',
  9: 'Deflate64',
  12: 'bzip2',
  14: 'LZMA',
  93: 'Zstandard',
  95: 'xz',
  98: 'PPMd',
};

function refuseUnreadable(file: InputFile, entry: Entry): void {
  // Method 99 is AES, whose flag may be missing.
  if (entry.isEncrypted() || entry.compressionMethod === 99) {
    throw new InvalidInputError(
      `"${nameOf(entry)}" in "${file.name}" is protected by a password; such entries cannot be unpacked.`,
    );
  }
  if (!entry.canDecodeFileData()) {
    const method = methodNames[entry.compressionMethod] ?? `method ${entry.compressionMethod}`;
    throw new InvalidInputError(
      `"${nameOf(entry)}" in "${file.name}" is packed with ${method}, which is unsupported: only stored and deflated entries can be unpacked.`,
    );
  }
}
