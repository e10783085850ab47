/** TAR archives: ustar, pax, GNU and the older one without a magic number. tar-stream reads the headers. */
import { isUtf8 } from 'node:buffer';
import { pipeline } from 'node:stream/promises';
import type { InputFile } from '#shared/tasks/define-task.ts';
import { extract, type Header } from 'tar-stream';
import type { ArchiveEntry } from './archive-entry.ts';
import { damagedError } from './damaged-error.ts';

/**
 * The entries, one after the other; what is not read of one is passed over.
 * @param bytes of the archive, unpacked.
 */
export async function* readTar(file: InputFile, bytes: AsyncIterable<Buffer>): AsyncGenerator<ArchiveEntry> {
  // Latin-1 keeps the bytes of names; see nameOf. The types lack both options.
  const options: object = { filenameEncoding: 'latin1', allowUnknownFormat: true };
  const reader = extract(options);
  const end = { zeros: 0 };
  const fed = pipeline(bytes, countZeros(end), reader as unknown as NodeJS.WritableStream).then(
    () => undefined,
    (err: unknown) => err,
  );
  // Where the bytes could not be had, the reader only knows that they ended.
  const reasonFor = async (err: unknown): Promise<unknown> => (await fed) ?? err;
  try {
    for await (const stream of reader) {
      const { header } = stream;
      yield {
        rawPath: nameOf(header),
        kind: kindOf(header),
        statedBytes: header.size,
        async *read() {
          try {
            yield* stream as AsyncIterable<Buffer>;
          } catch (err) {
            throw await reasonFor(err);
          }
        },
      };
      stream.resume();
    }
  } catch (err) {
    throw await reasonFor(err);
  }
  const failure = await fed;
  if (failure !== undefined) throw failure;
  if (end.zeros < blockBytes)
    throw damagedError(file, 'it ends without the mark that a TAR archive ends with.');
}

const blockBytes = 512;

/** The end is marked by blocks of zeros. Without them nobody can tell whether entries are missing. */
function countZeros(end: { zeros: number }) {
  return async function* pass(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      const tail = chunk.subarray(-blockBytes);
      const last = tail.findLastIndex((byte) => byte !== 0);
      end.zeros = last === -1 ? end.zeros + tail.length : tail.length - 1 - last;
      yield chunk;
    }
  };
}

/** pax says UTF-8; everybody else wrote in the encoding of his system. Sparse files have a name made up for old programs. */
function nameOf(header: Header): string {
  const { path, 'GNU.sparse.name': sparse } = paxOf(header);
  if (typeof sparse === 'string') return sparse;
  if (path !== undefined) return header.name;
  const bytes = Buffer.from(header.name, 'latin1');
  return isUtf8(bytes) ? bytes.toString('utf8') : header.name;
}

function paxOf(header: Header): Readonly<Record<string, unknown>> {
  return (header.pax ?? {}) as Readonly<Record<string, unknown>>;
}

function kindOf(header: Header): ArchiveEntry['kind'] {
  // Sparse files: what is stored is a map of the holes and the rest.
  if (Object.keys(paxOf(header)).some((key) => key.startsWith('GNU.sparse.'))) return 'unsupported';
  switch (header.type as Header['type'] | null) {
    case 'file':
    case 'contiguous-file':
      return 'file';
    case 'directory':
      return 'directory';
    case 'link':
    case 'symlink':
      return 'link';
    case 'block-device':
    case 'character-device':
    case 'fifo':
      return 'device';
    default:
      return 'unsupported';
  }
}
