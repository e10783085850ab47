import { cleanText } from '#shared/domain/text.ts';
import type { HandlerOf, InputFile } from '#shared/tasks/define-task.ts';
import { compact } from './compact.ts';
import { contradicts } from './contradicts.ts';
import type { DecodedText } from '#shared/file-types/decode-text.ts';
import { detectType, headBytes, type DetectedType } from '#shared/file-types/detect-type.ts';
import { findTable } from '#shared/file-types/find-table.ts';
import { hashFile } from './hash-file.ts';
import { imageTypes, inspectImage } from './inspect-image.ts';
import { inspectMedia } from './inspect-media.ts';
import { inspectPdf } from './inspect-pdf.ts';
import { inspectZip } from './inspect-zip.ts';
import { lineEnding } from './line-ending.ts';
import { readPart } from '#shared/file-types/read-part.ts';
import type { Inspection, task } from './task.ts';

/** Everything but the checksums reads headers only, so that a hostile file costs no more than an honest one. */
export default (async (input, ctx) => {
  const file = ctx.file(input.file);
  const digests = await hashFile(file.path, {
    signal: ctx.signal,
    onProgress: (bytes) => ctx.progress(Math.min((80 * bytes) / Math.max(file.sizeBytes, 1), 80), 'hashing'),
  });
  ctx.progress(80, 'inspecting');
  const head = await readPart(file.path, 0, headBytes);
  const type = await detectType(head, head.length === file.sizeBytes);
  const warnings: string[] = [];
  const details = await inspectDetails({ file, type, head, warnings, signal: ctx.signal });
  ctx.progress(100);
  return {
    name: file.name,
    sizeBytes: file.sizeBytes,
    sha256: file.sha256,
    ...digests,
    mediaType: type.mediaType,
    ...(type.extension !== undefined && { extension: type.extension }),
    declaredType: file.mediaType,
    isDeclaredTypeWrong: contradicts(file.mediaType, type.mediaType),
    ...details,
    warnings,
  };
}) satisfies HandlerOf<typeof task>;

type Details = Pick<Inspection, 'image' | 'media' | 'text' | 'pdf' | 'archive'>;

interface Look {
  readonly file: InputFile;
  readonly type: DetectedType;
  readonly head: Buffer;
  readonly warnings: string[];
  readonly signal: AbortSignal;
}

async function inspectDetails(look: Look): Promise<Details> {
  const { file, warnings, signal } = look;
  const { mediaType, text } = look.type;
  const isMedia = /^(audio\/|video\/|application\/(ogg|vnd\.ms-asf)$)/.test(mediaType);
  const isPdf = mediaType === 'application/pdf';
  return compact({
    image: imageTypes.has(mediaType)
      ? await orWarn(look, () => inspectImage(file.path, warnings))
      : undefined,
    media: isMedia ? await orWarn(look, () => inspectMedia(file, mediaType, signal)) : undefined,
    pdf: isPdf ? await orWarn(look, () => inspectPdf(file.path, file.sizeBytes)) : undefined,
    text: text && describeText(text, look),
    archive: await orWarn(look, () => inspectArchive(look)),
  });
}

function describeText(text: DecodedText, { type, head, file }: Look): Details['text'] {
  const { content, charset, hasByteOrderMark } = text;
  const isTable = type.mediaType === 'text/csv' || type.mediaType === 'text/tab-separated-values';
  const table = isTable ? findTable(content, head.length === file.sizeBytes) : undefined;
  return { charset, hasByteOrderMark, lineEnding: lineEnding(content), ...(table && { table }) };
}

/** A ZIP archive may hang behind any other file and be served as both; that is worth a warning. */
async function inspectArchive({ file, type, head, warnings }: Look): Promise<Details['archive']> {
  const archive = await inspectZip(file.path, file.sizeBytes, warnings);
  const isZip =
    head.toString('latin1', 0, 4) === 'PK\x03\x04' || head.toString('latin1', 0, 4) === 'PK\x05\x06';
  if (isZip && archive === undefined) {
    warnings.push('The archive has no directory: it was cut off, or is damaged.');
  }
  if (isZip || archive === undefined || archive.entries === 0) return isZip ? archive : undefined;
  warnings.push(`Behind the ${type.mediaType} there is a ZIP archive.`);
  return undefined;
}

/** What cannot be read is worth knowing, and no reason to fail. Errors of the machine are. */
async function orWarn<Value>(
  { file, type, warnings, signal }: Look,
  read: () => Promise<Value>,
): Promise<Value | undefined> {
  try {
    return await read();
  } catch (err) {
    signal.throwIfAborted();
    if (!(err instanceof Error) || 'syscall' in err) throw err;
    const lines = err.message.split('\n').filter((line) => !line.includes(file.path));
    warnings.push(
      cleanText(`The ${type.mediaType} could not be read: ${lines.join(' ')}`, warningCharactersMax).trim(),
    );
    return undefined;
  }
}

const warningCharactersMax = 300;
