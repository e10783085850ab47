/** A single file in gzip data (RFC 1952). */
import { isUtf8 } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { createGunzip } from 'node:zlib';
import { readPart } from '#shared/file-types/read-part.ts';
import type { InputFile } from '#shared/tasks/define-task.ts';
import type { ArchiveEntry } from './archive-entry.ts';

export async function* readGzip(
  file: InputFile,
  onRead: (packedBytes: number) => void,
): AsyncGenerator<ArchiveEntry> {
  yield {
    rawPath: (await readOriginalName(file.path)) ?? (file.name.replace(/\.gz$/i, '') || file.name),
    kind: 'file',
    // The last four bytes tell it modulo 4 GiB, and of the last member only.
    statedBytes: 0,
    read: () => gunzipFile(file.path, onRead),
  };
}

/** Unpacks all members. zlib compares length and checksum of each, and complains about a missing end. */
export async function* gunzipFile(
  path: string,
  onRead?: (packedBytes: number) => void,
): AsyncGenerator<Buffer> {
  const packed = createReadStream(path);
  const unpacked = createGunzip({ chunkSize: 64 * 1024 });
  packed.on('error', (err) => unpacked.destroy(err));
  try {
    for await (const chunk of packed.pipe(unpacked) as AsyncIterable<Buffer>) {
      onRead?.(packed.bytesRead);
      yield chunk;
    }
  } finally {
    packed.destroy();
  }
}

const flag = { extra: 4, name: 8 } as const;

/** The longest header that is looked at: an extra field of any size, and a name. */
const headerBytesMax = 12 + 65_535 + 4_096;

/** The name of what was packed, where the header says it: by the RFC in Latin-1, by most programs in UTF-8. */
async function readOriginalName(path: string): Promise<string | undefined> {
  const head = await readPart(path, 0, headerBytesMax);
  const flags = head[3] ?? 0;
  if ((flags & flag.name) === 0) return undefined;
  const start = (flags & flag.extra) === 0 || head.length < 12 ? 10 : 12 + head.readUInt16LE(10);
  const end = head.indexOf(0, start);
  if (end <= start) return undefined;
  const name = head.subarray(start, end);
  return name.toString(isUtf8(name) ? 'utf8' : 'latin1');
}
