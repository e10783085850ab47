import { createReadStream } from 'node:fs';
import { cleanText } from '#shared/domain/text.ts';
import {
  type HandlerOf,
  InvalidInputError,
  type InputFile,
  type TaskContext,
} from '#shared/tasks/define-task.ts';
import type { ArchiveEntry } from './archive-entry.ts';
import { createByteBudget, type ByteBudget } from './byte-budget.ts';
import { explainError } from './damaged-error.ts';
import { detectFormat } from './detect-format.ts';
import { entriesMax, skippedNamesMax } from './limits.ts';
import { gunzipFile, readGzip } from './read-gzip.ts';
import { readTar } from './read-tar.ts';
import { openZip } from './read-zip.ts';
import { createListLimit, refuseTooMany } from './refuse-too-much.ts';
import { createSelect } from './select-entry.ts';
import type { ExtractInput, ExtractResult, task } from './task.ts';
import { writeEntry } from './write-entry.ts';

/** Only ids become paths here: what an archive calls its entries is data of the result. */
export default (async (input, ctx) => {
  const file = ctx.file(input.file);
  try {
    if (file.sizeBytes === 0) throw new InvalidInputError(`"${file.name}" is empty.`);
    const format = await detectFormat(file, ctx.signal);
    const budget = createByteBudget(file, input, ctx.limits);
    const work: Work = { input, ctx, file, budget };
    return { format, ...(format === 'zip' ? await extractZip(work) : await extractStream(work, format)) };
  } catch (err) {
    ctx.signal.throwIfAborted();
    throw explainError(file, err);
  }
}) satisfies HandlerOf<typeof task>;

interface Work {
  readonly input: ExtractInput;
  readonly ctx: TaskContext;
  readonly file: InputFile;
  readonly budget: ByteBudget;
}

type Extracted = Omit<ExtractResult, 'format'>;

/** The directory tells what will come, so that what is too much is refused before anything is written. */
async function extractZip(work: Work): Promise<Extracted> {
  const { input, ctx, file, budget } = work;
  const { entries, close } = await openZip(file, ctx.signal);
  try {
    const select = createSelect(input);
    const taken = entries.filter((entry) => select(entry).do === 'take');
    refuseTooMany(file, taken.length, { ...ctx.limits, filesMax: input.filesMax });
    const statedBytes = taken.reduce((sum, entry) => sum + entry.statedBytes, 0);
    budget.announceAll(statedBytes);
    let doneBytes = 0;
    return await extractEntries(work, entries, {
      onBytes(bytes) {
        budget.unpacked(bytes);
        doneBytes += bytes;
        ctx.progress(percentOf(doneBytes, statedBytes));
      },
    });
  } finally {
    await close();
  }
}

/** What can only be read from beginning to end. */
async function extractStream(work: Work, format: 'tar' | 'tar.gz' | 'gzip'): Promise<Extracted> {
  const { ctx, file, budget } = work;
  const onRead = (bytes: number): void => ctx.progress(percentOf(bytes, file.sizeBytes));
  if (format === 'gzip')
    return extractEntries(work, readGzip(file, onRead), { onBytes: (bytes) => budget.unpacked(bytes) });
  const bytes = format === 'tar.gz' ? gunzipFile(file.path, onRead) : readFileBytes(file.path, onRead);
  // Counted here, because what is passed over comes out of the packing as well.
  return extractEntries(work, readTar(file, counted(bytes, ctx.signal, budget)), { onBytes: () => {} });
}

async function* readFileBytes(path: string, onRead: (bytes: number) => void): AsyncGenerator<Buffer> {
  const stream = createReadStream(path);
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    onRead(stream.bytesRead);
    yield chunk;
  }
}

async function* counted(
  chunks: AsyncIterable<Buffer>,
  signal: AbortSignal,
  budget: ByteBudget,
): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    signal.throwIfAborted();
    budget.unpacked(chunk.length);
    yield chunk;
  }
}

async function extractEntries(
  work: Work,
  entries: Iterable<ArchiveEntry> | AsyncIterable<ArchiveEntry>,
  { onBytes }: { onBytes: (bytes: number) => void },
): Promise<Extracted> {
  const { input, ctx, file, budget } = work;
  const select = createSelect(input);
  const files: ExtractResult['files'] = [];
  const skipped: ExtractResult['skipped'] = [];
  const counts = { entries: 0, skipped: 0, leftOut: 0 };
  const list = createListLimit(file, ctx.limits);
  for await (const entry of entries) {
    ctx.signal.throwIfAborted();
    counts.entries += 1;
    if (counts.entries > entriesMax) {
      throw new InvalidInputError(
        `"${file.name}" has more than ${entriesMax} entries, which is the most that an archive may have.`,
      );
    }
    const selection = select(entry);
    if (selection.do === 'leave-out') counts.leftOut += 1;
    if (selection.do === 'skip') {
      counts.skipped += 1;
      const item = { path: cleanText(entry.rawPath, skippedCharactersMax), reason: selection.reason };
      if (skipped.length < skippedNamesMax) {
        skipped.push(item);
        list.add(item);
      }
    }
    if (selection.do !== 'take') continue;
    refuseTooMany(file, files.length + 1, { ...ctx.limits, filesMax: input.filesMax });
    const { path } = selection;
    budget.beginFile(path, entry.statedBytes);
    const taken = await writeEntry(ctx, entry, path, (bytes) => {
      budget.written(bytes);
      onBytes(bytes);
    });
    files.push(taken);
    list.add(taken);
  }
  ctx.progress(100);
  return { files, skipped, skippedCount: counts.skipped, leftOutCount: counts.leftOut };
}

const skippedCharactersMax = 300;

function percentOf(done: number, all: number): number {
  // The last percent is for what follows the bytes; and an archive may say that it has none.
  return all === 0 ? 0 : Math.min(99, Math.floor((100 * done) / all));
}
