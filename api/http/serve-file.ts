/**
 * Gives out the bytes of a stored file (GET and HEAD). They came from a client and may be anything, so a browser is told
 * to trust them with nothing: downloaded rather than shown, never sniffed, and in a sandbox without origin.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { AppError } from '#shared/errors.ts';
import type { Logger } from '#shared/log.ts';
import { codeOf } from '#shared/storage/fs-errors.ts';
import { releaseBuffers } from '#shared/release-buffers.ts';
import { StoredFileMissingError, type Storage } from '#shared/storage/storage.ts';
import { formatReprDigest } from './digest.ts';
import { cleanMediaType, contentDisposition } from './file-name.ts';
import { checkPreconditions, isRangeCurrent, type Validators } from './serve-file-preconditions.ts';
import { parseRange } from './serve-file-range.ts';

export interface ServedFile {
  readonly id: string;
  readonly name: string;
  /** As it was declared. */
  readonly mediaType: string;
  /** As it was found in the bytes, by whoever could do that safely. */
  readonly detectedType: string | null;
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
  readonly createdAt: Date;
}

/**
 * What a browser may show. None of these formats can carry script, whatever the bytes really are: with `nosniff` they are
 * decoded as this type or not at all. SVG, HTML, XML and PDF are missing because they can. CSV is downloaded by browsers anyway.
 */
const inlineTypes = new Set([
  'image/png',
  'image/jpeg',
  'image/webp',
  'image/avif',
  'image/gif',
  'text/plain',
]);

/** A client that takes nothing for this long is cut off: it holds a descriptor and a connection. */
const idleMsDefault = 60_000;

/**
 * Answers with the file, a part of it or 304. Resolves when all is sent, or the client is gone, which is no error.
 * @param options.disposition `inline` is only granted to images and plain text; all else is an attachment.
 * @throws AppError `precondition-failed`; `range-not-satisfiable` (its `Content-Range` is set already); `not-found` when
 *   the bytes are gone, `internal` when they are damaged (both logged: the row says otherwise).
 */
export async function serveFile(options: {
  req: IncomingMessage;
  res: ServerResponse;
  file: ServedFile;
  storage: Storage;
  log: Logger;
  disposition: 'inline' | 'attachment';
  idleMs?: number;
}): Promise<void> {
  const { req, res, file, storage, log, disposition, idleMs = idleMsDefault } = options;
  const validators = { etag: `"${file.sha256}"`, modifiedAt: file.createdAt };

  const verdict = checkPreconditions(req.headers, validators);
  if (verdict === 'failed') {
    throw new AppError(
      'precondition-failed',
      `The ETag is ${validators.etag}, last modified ${file.createdAt.toUTCString()}.`,
    );
  }
  if (verdict === 'not-modified') {
    setValidators(res, validators);
    res.writeHead(304).end();
    return;
  }

  // Ranges are only defined for GET (RFC 9110, section 14.2).
  const isRangeAsked = req.method === 'GET' && isRangeCurrent(req.headers, validators);
  const range = isRangeAsked ? parseRange(req.headers.range, file.sizeBytes) : 'whole';
  if (range === 'unsatisfiable') {
    res.setHeader('Content-Range', `bytes */${file.sizeBytes}`);
    throw new AppError('range-not-satisfiable', `The file has ${file.sizeBytes} bytes.`);
  }

  // Opened before the status is written, so that what is not there can still be said.
  const bytes = await openBytes({ isHead: req.method === 'HEAD', file, storage, log, range });
  setValidators(res, validators);
  setRepresentation(res, file, disposition);
  if (range === 'whole') {
    res.writeHead(200, { 'Content-Length': file.sizeBytes });
  } else {
    const { start, end } = range;
    res.writeHead(206, {
      'Content-Length': end - start + 1,
      'Content-Range': `bytes ${start}-${end}/${file.sizeBytes}`,
    });
  }
  if (!bytes) {
    res.end();
    return;
  }
  res.setTimeout(idleMs, () => res.destroy());
  try {
    await pipeline(bytes, releaseBuffers(), res);
  } catch (err) {
    // The status is sent; the broken connection tells the client. Its own going away is nothing to tell anyone.
    if (codeOf(err) !== 'ERR_STREAM_PREMATURE_CLOSE')
      log.error({ fileId: file.id, err }, 'a stored file could not be read');
  }
}

async function openBytes(options: {
  isHead: boolean;
  file: ServedFile;
  storage: Storage;
  log: Logger;
  range: 'whole' | { start: number; end: number };
}): Promise<Readable | undefined> {
  const { isHead, file, storage, log, range } = options;
  try {
    const { sizeBytes } = await storage.stat(file.id);
    if (sizeBytes !== file.sizeBytes) {
      log.error(
        { fileId: file.id, expectedBytes: file.sizeBytes, foundBytes: sizeBytes },
        'a stored file is damaged',
      );
      throw new AppError('internal', 'The stored bytes of the file are damaged.');
    }
    return isHead ? undefined : await storage.read(file.id, range === 'whole' ? undefined : range);
  } catch (err) {
    if (!(err instanceof StoredFileMissingError)) throw err;
    log.error({ fileId: file.id }, 'the bytes of a stored file are missing');
    throw new AppError('not-found', 'The bytes of the file are no longer there.', { cause: err });
  }
}

function setValidators(res: ServerResponse, { etag, modifiedAt }: Validators): void {
  res.setHeader('ETag', etag);
  res.setHeader('Last-Modified', modifiedAt.toUTCString());
  res.setHeader('Cache-Control', 'private, no-store');
}

function setRepresentation(res: ServerResponse, file: ServedFile, asked: 'inline' | 'attachment'): void {
  const type = cleanMediaType(file.detectedType ?? file.mediaType);
  const isInline = asked === 'inline' && inlineTypes.has(type.split(';', 1)[0] ?? type);
  res.setHeader('Content-Type', type === 'text/plain' ? 'text/plain; charset=utf-8' : type);
  res.setHeader('Content-Disposition', contentDisposition(file.name, isInline ? 'inline' : 'attachment'));
  res.setHeader('Repr-Digest', formatReprDigest(file.sha256));
  res.setHeader('Accept-Ranges', 'bytes');
  res.setHeader('X-Content-Type-Options', 'nosniff');
  res.setHeader('Content-Security-Policy', "sandbox; default-src 'none'; frame-ancestors 'none'");
  res.setHeader('Cross-Origin-Resource-Policy', 'same-site');
}
