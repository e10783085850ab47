import { parse } from 'node:path';

/** Longest name of a stored file, in bytes of UTF-8. */
const nameBytesMax = 255;

/** The name of the source with the extension of the new format: `Cat.final.HEIC` and `jpg` → `Cat.final.jpg`. */
export function outputName(sourceName: string, extension: string): string {
  const suffix = `.${extension}`;
  let base = '';
  let bytes = suffix.length;
  for (const character of parse(sourceName).name) {
    bytes += Buffer.byteLength(character);
    if (bytes > nameBytesMax) break;
    base += character;
  }
  return base + suffix;
}
