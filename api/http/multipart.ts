/**
 * Reads a `multipart/form-data` body (RFC 7578) as it arrives: text fields are gathered, each part named `file` is
 * handed on as a stream, in whatever order they come.
 *
 * The delimiters are found by the Dicer of @fastify/busboy. Busboy itself leaves out silently what it does not like (a
 * part without a name, headers over a limit), and a job must not be accepted with half of its request. Dicer is fed by
 * hand: its own back-pressure can stop for good when a part ends in the very write that filled it, so its parts are
 * never full (`partHwm`) and the loop below waits for the reader of the file instead.
 */
import type { Readable } from 'node:stream';
import { Dicer } from '@fastify/busboy';
import { malformed, tooLarge } from './multipart-errors.ts';
import { createFileBuffer, type FileBuffer } from './multipart-file.ts';
import { headerBytesMax, headerPairsMax, readBoundary, readPartHeader } from './multipart-header.ts';

export interface MultipartLimits {
  /** Parts of any kind. */
  readonly partsMax: number;
  /** Parts named `file` (WINDLASS_FILES_PER_REQUEST_MAX). */
  readonly filesMax: number;
  /** Parts that are text fields. */
  readonly fieldsMax: number;
  /** Size of one text field (WINDLASS_JSON_BYTES_MAX). */
  readonly fieldBytesMax: number;
}

export interface FilePart {
  /** As the client wrote it: neither clean nor true. */
  readonly fileName: string | undefined;
  readonly mediaType: string | undefined;
  /** Fails with the error that `readMultipart` then throws. What is not read of it is skipped. */
  readonly stream: Readable;
}

export interface Form<Stored> {
  /** Each name occurs once. */
  readonly fields: ReadonlyMap<string, string>;
  /** What `onFile` gave, in the order of the parts. */
  readonly files: readonly Stored[];
}

/** Every part of this name is a file, with or without a file name; every other part is a text field. */
const fileField = 'file';

/**
 * Reads `body` to its end. When it throws, nothing of this call runs any more: `body` is closed, every file stream has
 * ended or failed, and each `onFile` has settled. What `onFile` had stored by then is the caller's to delete.
 * @throws AppError `unsupported-media-type`, `invalid-multipart`, `content-too-large`; what `body` or `onFile` fails with.
 */
export async function readMultipart<Stored>(
  body: Readable,
  options: {
    contentType: string | undefined;
    limits: MultipartLimits;
    onFile: (file: FilePart) => Promise<Stored>;
  },
): Promise<Form<Stored>> {
  const { limits, onFile } = options;
  const fields = new Map<string, string>();
  const files: Promise<Stored>[] = [];
  const parts: Promise<void>[] = [];
  let current: FileBuffer | undefined;
  let failure: { readonly error: unknown } | undefined;

  function fail(error: unknown): void {
    failure ??= { error };
    current?.fail(error);
    // Ends the loop below also while it waits for a client that sends nothing.
    body.destroy();
  }

  function startFile(file: Omit<FilePart, 'stream'>, part: Dicer.PartStream): void {
    if (files.length === limits.filesMax) {
      throw tooLarge(`The form has more than ${limits.filesMax} files (WINDLASS_FILES_PER_REQUEST_MAX).`);
    }
    const buffer = createFileBuffer(part);
    current = buffer;
    const stored = onFile({ ...file, stream: buffer.stream });
    stored.then(() => buffer.stream.resume(), fail);
    files.push(stored);
  }

  function startField(name: string, part: Dicer.PartStream): void {
    if (fields.has(name)) throw malformed(`The field "${name}" is there more than once.`);
    if (fields.size === limits.fieldsMax)
      throw tooLarge(`The form has more than ${limits.fieldsMax} fields.`);
    fields.set(name, '');
    const chunks: Buffer[] = [];
    let size = 0;
    part.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= limits.fieldBytesMax) chunks.push(chunk);
      else fail(fieldTooLarge(name, limits.fieldBytesMax));
    });
    part.on('end', () => attempt(() => fields.set(name, decodeText(name, Buffer.concat(chunks)))));
  }

  function startPart(part: Dicer.PartStream): void {
    if (parts.length === limits.partsMax) throw tooLarge(`The form has more than ${limits.partsMax} parts.`);
    let hasHeader = false;
    part.on('header', (header) => {
      hasHeader = true;
      attempt(() => {
        const { name, ...file } = readPartHeader(header);
        if (name === fileField) startFile(file, part);
        else startField(name, part);
      });
    });
    // What Dicer says here, it says to `parser` as well.
    part.on('error', () => {});
    const { promise, resolve } = Promise.withResolvers<void>();
    parts.push(promise);
    part.on('end', () => {
      if (!hasHeader) fail(malformed('A part ends within its headers.'));
      resolve();
    });
    part.resume();
  }

  /** What is thrown in a listener of Dicer must not surface inside of Dicer. */
  function attempt(action: () => void): void {
    try {
      if (!failure) action();
    } catch (err) {
      fail(err);
    }
  }

  const parser = createParser(readBoundary(options.contentType));
  const parsed = Promise.withResolvers<void>();
  parser.on('part', (part) => attempt(() => startPart(part)));
  parser.on('finish', parsed.resolve);
  parser.on('error', () => {
    fail(malformed('The body ends before its closing boundary.'));
    parsed.resolve();
  });

  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      parser.write(chunk);
      await current?.waitForRoom();
    }
    if (!failure) {
      parser.end();
      await parsed.promise;
      await Promise.all(parts);
    }
  } catch (err) {
    fail(err);
  }
  await Promise.allSettled(files);
  if (failure) throw failure.error;
  return { fields, files: await Promise.all(files) };
}

function createParser(boundary: string): Dicer {
  const config: Dicer.Config & { maxHeaderSize: number; partHwm: number } = {
    boundary,
    // More than allowed, so that it shows when something was cut off.
    maxHeaderPairs: headerPairsMax + 1,
    maxHeaderSize: headerBytesMax + 1024,
    partHwm: Number.MAX_SAFE_INTEGER,
  };
  return new Dicer(config);
}

function fieldTooLarge(name: string, bytesMax: number): Error {
  const hint = `Files go into parts with the name "${fileField}".`;
  return tooLarge(`The field "${name}" is larger than ${bytesMax} bytes (WINDLASS_JSON_BYTES_MAX). ${hint}`);
}

function decodeText(name: string, bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw malformed(`The field "${name}" is not UTF-8.`);
  }
}
