/**
 * What Postgres cannot store: U+0000, and surrogates without their partner (jsonb refuses both). Found at the edge
 * and named, instead of failing a statement that carries the rows of others.
 */
import { toPointer } from './json-pointer.ts';

/** The JSON Pointer (RFC 6901) of the first string or key in `value` that cannot be stored. */
export function findUnstorable(value: unknown, pointer = ''): string | undefined {
  if (typeof value === 'string') return isStorable(value) ? undefined : pointer;
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [key, item] of Object.entries(value)) {
    const place = pointer + toPointer([key]);
    if (!isStorable(key)) return place;
    const found = findUnstorable(item, place);
    if (found !== undefined) return found;
  }
  return undefined;
}

export function isStorable(text: string): boolean {
  return !text.includes('\0') && text.isWellFormed();
}

/** Makes foreign text (messages of libraries, log lines) storable and short: no control characters but line feeds and tabs. */
export function cleanText(text: string, lengthMax: number): string {
  const clean = text
    .slice(0, lengthMax * 2)
    .toWellFormed()
    .replace(/\p{Cc}/gu, (character) => (character === '\n' || character === '\t' ? character : ''));
  return clean.length <= lengthMax ? clean : `${clean.slice(0, lengthMax - 1).toWellFormed()}…`;
}
