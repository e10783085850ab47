/**
 * The one range of a `Range` header that is answered with 206 (RFC 9110, section 14), both ends included.
 * `whole`: no range, one that is malformed or of another unit, or several; all of these are answered with all bytes,
 * which the RFC allows and every client understands. `unsatisfiable`: 416.
 */
export function parseRange(
  header: string | undefined,
  sizeBytes: number,
): { start: number; end: number } | 'whole' | 'unsatisfiable' {
  const match = /^bytes=[ \t]*(\d*)-(\d*)[ \t]*$/i.exec(header ?? '');
  if (match?.[1] === undefined || match[2] === undefined) return 'whole';
  const [, first, last] = match;
  if (first === '') return parseSuffix(last, sizeBytes);
  const start = Number(first);
  const end = last === '' ? Infinity : Number(last);
  if (end < start) return 'whole';
  return start < sizeBytes ? { start, end: Math.min(end, sizeBytes - 1) } : 'unsatisfiable';
}

/** `-500` is the last 500 bytes. */
function parseSuffix(
  length: string,
  sizeBytes: number,
): { start: number; end: number } | 'whole' | 'unsatisfiable' {
  if (length === '') return 'whole';
  if (Number(length) === 0) return 'unsatisfiable';
  // "If the selected representation is shorter than the specified suffix-length, the entire representation is used."
  return sizeBytes === 0 ? 'whole' : { start: Math.max(0, sizeBytes - Number(length)), end: sizeBytes - 1 };
}
