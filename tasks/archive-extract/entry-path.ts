import { nameBytesMax, pathBytesMax } from './limits.ts';

/**
 * The path of an entry with `/` between its parts, or why there is none. We never write to it; but who unpacks our result
 * again would, so what leads elsewhere on any system is no path.
 */
export function readEntryPath(
  raw: string,
): { readonly path: string } | { readonly reason: 'unsafe-path' | 'path-too-long' } {
  const text = raw.normalize('NFC');
  const isAbsolute = /^[/\\]|^[a-z]:/i.test(text);
  const isClimbing = text.split(/[/\\]/).includes('..');
  if (isAbsolute || isClimbing || !text.isWellFormed() || /\p{Cc}/u.test(text))
    return { reason: 'unsafe-path' };
  if (Buffer.byteLength(text) > pathBytesMax) return { reason: 'path-too-long' };
  const path = text
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/');
  return path === '' ? { reason: 'unsafe-path' } : { path };
}

/** The last part of a path, shortened before its extension where it is too long for a name. */
export function entryName(path: string): string {
  const last = path.split(/[/\\]/).at(-1)?.trim() ?? '';
  // As names of stored files are cleaned: a folder's own name, or nothing but spaces, is none.
  const name = last === '' || last === '.' ? 'file' : last;
  if (Buffer.byteLength(name) <= nameBytesMax) return name;
  const extension = /\.[^.]{1,20}$/u.exec(name)?.[0] ?? '';
  let base = '';
  let bytes = Buffer.byteLength(extension);
  for (const character of name) {
    bytes += Buffer.byteLength(character);
    if (bytes > nameBytesMax) break;
    base += character;
  }
  return base + extension;
}
