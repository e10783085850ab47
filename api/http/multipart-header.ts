import { z } from 'zod';
import { AppError } from '#shared/errors.ts';
import { parseContentDisposition } from './file-name.ts';
import { malformed, tooLarge } from './multipart-errors.ts';

// Far above what any client sends.
export const headerPairsMax = 32;
export const headerBytesMax = 16 * 1024;
const nameBytesMax = 100;

const headerSchema = z.record(z.string(), z.array(z.string()));

/** The `boundary` of a `Content-Type`. @throws AppError `unsupported-media-type`, `invalid-multipart` */
export function readBoundary(contentType: string | undefined): string {
  if (!/^[ \t]*multipart\/form-data[ \t]*(;|$)/i.test(contentType ?? '')) {
    throw new AppError('unsupported-media-type', 'Send the form as multipart/form-data.');
  }
  const found = [
    ...(contentType ?? '').matchAll(/;[ \t]*boundary=(?:"([\x20-\x7e]*?)"|([^\s";]*))[ \t]*(?=;|$)/gi),
  ];
  const boundary = found[0]?.[1] ?? found[0]?.[2] ?? '';
  // RFC 2046, section 5.1.1: 1 to 70 characters of ASCII.
  if (found.length !== 1 || !/^[\x20-\x7e]{1,70}$/.test(boundary)) {
    throw malformed('The Content-Type must have one boundary, of 1 to 70 ASCII characters.');
  }
  return boundary;
}

/**
 * Reads the headers of one part, as Dicer gives them (one character per byte).
 * @throws AppError `invalid-multipart`, `content-too-large`
 */
export function readPartHeader(header: object): {
  name: string;
  fileName: string | undefined;
  mediaType: string | undefined;
} {
  const headers = headerSchema.parse(header);
  const pairs = Object.entries(headers).flatMap(([name, values]) =>
    values.map((value) => name.length + value.length),
  );
  if (pairs.length > headerPairsMax)
    throw tooLarge(`A part of the form has more than ${headerPairsMax} headers.`);
  if (pairs.reduce((sum, size) => sum + size, 0) > headerBytesMax) {
    throw tooLarge(`The headers of a part are larger than ${headerBytesMax} bytes.`);
  }
  const disposition = parseContentDisposition(headers['content-disposition']?.join(',') ?? '');
  if (disposition?.type !== 'form-data' || disposition.name === undefined) {
    throw malformed('Each part needs the header Content-Disposition: form-data; name="…".');
  }
  // RFC 7578, section 4.7, takes these away; storing base64 instead of the bytes would help nobody.
  const encoding = headers['content-transfer-encoding']?.join(',') ?? 'binary';
  if (!/^\s*(7bit|8bit|binary)\s*$/i.test(encoding)) {
    throw malformed(
      `The part "${disposition.name.slice(0, nameBytesMax)}" has a Content-Transfer-Encoding. Send its bytes as they are.`,
    );
  }
  checkName(disposition.name);
  return { name: disposition.name, fileName: disposition.fileName, mediaType: headers['content-type']?.[0] };
}

function checkName(name: string): void {
  if (name === '') throw malformed('A part has an empty name.');
  if (Buffer.byteLength(name) > nameBytesMax)
    throw malformed(`The name of a part is longer than ${nameBytesMax} bytes.`);
  if (/[[\]]/.test(name))
    throw malformed(
      `The part "${name}" has a nested name. Names are flat; send objects as JSON in \`input\`.`,
    );
}
