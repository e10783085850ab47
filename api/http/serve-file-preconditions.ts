import type { IncomingHttpHeaders } from 'node:http';

/** What the conditions of a request are compared with. */
export interface Validators {
  /** Strong, with its quotes. */
  readonly etag: string;
  readonly modifiedAt: Date;
}

/**
 * The preconditions of a GET or HEAD in the order of RFC 9110, section 13.2.2: 412 `failed`, 304 `not-modified`, or
 * go on. Dates have a resolution of seconds; a condition with a malformed date is ignored.
 */
export function checkPreconditions(
  headers: IncomingHttpHeaders,
  { etag, modifiedAt }: Validators,
): 'failed' | 'not-modified' | 'pass' {
  const modifiedMs = wholeSeconds(modifiedAt);
  const unmodifiedSince = parseDate(headers['if-unmodified-since']);
  if (headers['if-match'] !== undefined) {
    if (!matches(headers['if-match'], etag, 'strong')) return 'failed';
  } else if (unmodifiedSince !== undefined && modifiedMs > unmodifiedSince) {
    return 'failed';
  }
  const modifiedSince = parseDate(headers['if-modified-since']);
  if (headers['if-none-match'] !== undefined) {
    if (matches(headers['if-none-match'], etag, 'weak')) return 'not-modified';
  } else if (modifiedSince !== undefined && modifiedMs <= modifiedSince) {
    return 'not-modified';
  }
  return 'pass';
}

/** `If-None-Match` alone, for what has an ETag and no date: is the answer 304? */
export function isNotModified(headers: IncomingHttpHeaders, etag: string): boolean {
  return headers['if-none-match'] !== undefined && matches(headers['if-none-match'], etag, 'weak');
}

/**
 * `If-Range` (RFC 9110, section 13.1.5): may the range be answered with a range? The date must be exactly ours; it is
 * as good as a strong validator, because the bytes under an id never change.
 */
export function isRangeCurrent(headers: IncomingHttpHeaders, { etag, modifiedAt }: Validators): boolean {
  if (headers['if-range'] === undefined) return true;
  const ifRange = String(headers['if-range']);
  if (/^[ \t]*(W\/)?"/.test(ifRange)) return ifRange.trim() === etag;
  return parseDate(ifRange) === wholeSeconds(modifiedAt);
}

/** The strong comparison takes no weak tag; the weak one (`If-None-Match`) looks past the `W/`. */
function matches(header: string, etag: string, comparison: 'strong' | 'weak'): boolean {
  if (header.trim() === '*') return true;
  const tags = header.match(/(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"/g) ?? [];
  return tags.some((tag) => (comparison === 'weak' ? tag.replace(/^W\//, '') : tag) === etag);
}

/** An HTTP-date (RFC 9110, section 5.6.7): always GMT, although its oldest form does not say so. */
function parseDate(text: string | undefined): number | undefined {
  if (text === undefined || !/^[A-Za-z]{3,9},? /.test(text)) return undefined;
  const ms = Date.parse(text.endsWith('GMT') ? text : `${text} GMT`);
  return Number.isNaN(ms) ? undefined : ms;
}

function wholeSeconds(date: Date): number {
  return Math.floor(date.getTime() / 1_000) * 1_000;
}
