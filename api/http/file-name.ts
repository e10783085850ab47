import { isUtf8 } from 'node:buffer';

/** Fits the file systems that a client may save it to, and the column (db/migrations/0001-init.sql). */
const nameBytesMax = 255;
/** Longer than any real extension; a longer one is part of the name and is cut with it. */
const extensionBytesMax = 20;
const fallbackName = 'file';

/**
 * What a client called a file, made harmless: a name without folders (of Unix and of Windows), control or
 * text-direction characters, normalised to NFC, at most 255 bytes of UTF-8 (cut before the extension), and never empty.
 * Cleaning twice changes nothing. It is data for people to read; no path is ever made of it.
 */
export function cleanFileName(raw: string): string {
  const visible = raw.toWellFormed().replace(hidden, '').normalize('NFC');
  const base = visible.slice(Math.max(visible.lastIndexOf('/'), visible.lastIndexOf('\\')) + 1).trim();
  const name = cutKeepingExtension(base);
  return name === '' || name === '.' || name === '..' ? fallbackName : name;
}

/**
 * Control characters, line and paragraph separators, and the characters that turn the direction of text around: with those
 * `gpj.exe` can be made to read as `exe.jpg`.
 */
const hidden = /[\p{Cc}\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

function cutKeepingExtension(name: string): string {
  if (Buffer.byteLength(name) <= nameBytesMax) return name;
  const dot = name.lastIndexOf('.');
  const extension = dot > 0 && Buffer.byteLength(name.slice(dot)) <= extensionBytesMax ? name.slice(dot) : '';
  const stem = name.slice(0, name.length - extension.length);
  return (cutBytes(stem, nameBytesMax - Buffer.byteLength(extension)) + extension).trim();
}

/** The longest beginning of whole characters within so many bytes. */
function cutBytes(text: string, bytesMax: number): string {
  const bytes = Buffer.from(text);
  let end = bytesMax;
  // 10xxxxxx continues a character: the cut moves to before it began.
  while (((bytes[end] ?? 0) & 0b1100_0000) === 0b1000_0000) end -= 1;
  return bytes.toString('utf8', 0, end);
}

/**
 * The value of a `Content-Disposition` response header (RFC 6266): the name in ASCII for old clients, and where that
 * is not the whole truth, exactly in `filename*`.
 */
export function contentDisposition(name: string, type: 'attachment' | 'inline'): string {
  const exact = name.toWellFormed();
  // Some clients decode percent signs and backslashes in the plain form, so it has none (RFC 6266, appendix D).
  const ascii = exact.replace(/[^\x20-\x7e]|["%\\]/gu, '_');
  return exact === ascii
    ? `${type}; filename="${ascii}"`
    : `${type}; filename="${ascii}"; filename*=UTF-8''${percentEncode(exact)}`;
}

/** RFC 8187 `value-chars`: encodeURIComponent leaves four characters that are not allowed there. */
function percentEncode(text: string): string {
  return encodeURIComponent(text).replace(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

export interface ContentDisposition {
  /** `attachment`, `form-data` …, in lower case. */
  readonly type: string;
  readonly name: string | undefined;
  /** As the client wrote it: not cleaned. */
  readonly fileName: string | undefined;
}

/**
 * Reads a `Content-Disposition` header of a request or a form part, as Node gives it (one character per byte).
 * Text is UTF-8, or Latin-1 where it is not valid UTF-8. `filename*` wins over `filename`.
 * Undefined when it is malformed or names a parameter twice: two readers might pick different ones.
 */
export function parseContentDisposition(header: string): ContentDisposition | undefined {
  const type = /^[ \t]*([\w!#$%&'*+.^`|~-]+)[ \t]*(?=;|$)/.exec(header);
  if (type?.[1] === undefined) return undefined;
  const parameters = new Map<string, string>();
  parameter.lastIndex = type[0].length;
  while (parameter.lastIndex < header.length) {
    const match = parameter.exec(header);
    if (!match) return undefined;
    const [, key, quoted, token] = match;
    if (key === undefined) continue;
    if (parameters.has(key.toLowerCase())) return undefined;
    parameters.set(key.toLowerCase(), quoted === undefined ? (token ?? '') : unquote(quoted));
  }
  const name = parameters.get('name');
  const fileName = parameters.get('filename');
  return {
    type: type[1].toLowerCase(),
    name: name === undefined ? undefined : decodeBytes(name),
    fileName:
      decodeExtended(parameters.get('filename*')) ??
      (fileName === undefined ? undefined : decodeBytes(fileName)),
  };
}

/** `; key="quoted"` or `; key=token`; a lone `;` is let through. Linear: no two neighbours can match the same text. */
const parameter =
  /;[ \t]*(?:([\w!#$%&'*+.^`|~-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\[^])*)"|([^\s";]+))[ \t]*)?(?=;|$)/y;

/** Only `\"` and `\\` are escapes: some clients send a Windows path with its backslashes as they are. */
function unquote(text: string): string {
  return text.replace(/\\(["\\])/g, '$1');
}

function decodeBytes(latin1: string): string {
  const bytes = Buffer.from(latin1, 'latin1');
  return isUtf8(bytes) ? bytes.toString() : latin1;
}

/** RFC 8187: `UTF-8'language'percent-encoded`; undefined for what is not. */
function decodeExtended(value: string | undefined): string | undefined {
  const match = /^(utf-8|iso-8859-1)'[\w-]*'((?:%[0-9a-f]{2}|[\w!#$&+.^`|~-])*)$/i.exec(value ?? '');
  if (match?.[1] === undefined || match[2] === undefined) return undefined;
  const bytes = Buffer.from(
    match[2].replace(/%(..)/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16))),
    'latin1',
  );
  if (match[1].toLowerCase() === 'iso-8859-1') return bytes.toString('latin1');
  return isUtf8(bytes) ? bytes.toString() : undefined;
}

const mediaType = /^[ \t]*([a-z0-9][\w!#$&^.+-]{0,126}\/[a-z0-9][\w!#$&^.+-]{0,126})[ \t]*(?:;|$)/i;
const charset = /;[ \t]*charset="?([\w.:+-]{1,40})"?[ \t]*(?:;|$)/i;

/** `type/subtype` in lower case, with a charset if there is one; `application/octet-stream` for what is none. */
export function cleanMediaType(raw: string | undefined): string {
  const type = mediaType.exec(raw ?? '')?.[1];
  if (type === undefined) return 'application/octet-stream';
  const set = charset.exec(raw ?? '')?.[1];
  return set === undefined ? type.toLowerCase() : `${type.toLowerCase()}; charset=${set.toLowerCase()}`;
}
