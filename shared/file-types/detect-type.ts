/**
 * What a file is, by its first bytes: magic numbers first, then our own rules for what has none (text and its kinds).
 */
import { fileTypeFromBuffer } from 'file-type';
import { decodeText, type DecodedText } from './decode-text.ts';
import { detectTextType } from './detect-text-type.ts';

export interface DetectedType {
  readonly mediaType: string;
  readonly extension?: string;
  readonly text?: DecodedText;
}

/** Enough for office documents, which are recognised by entries some way into their ZIP archive. */
export const headBytes = 256 * 1024;

/** @param isWhole whether `head` is all of the file. */
export async function detectType(head: Buffer, isWhole: boolean): Promise<DetectedType> {
  // The type that `file` and others use for it.
  if (head.length === 0) return { mediaType: 'application/x-empty' };
  const magic = await findMagic(head);
  const text = decodeText(head, isWhole);
  if (text === undefined) return magic ?? { mediaType: 'application/octet-stream' };
  // "BMW" and "MZ" begin like a bitmap and a program; but those are never Unicode from end to end.
  const isCertain = text.charset !== 'windows-1252' && text.charset !== 'unknown-8bit';
  if (magic !== undefined && (!isCertain || readableFormats.has(magic.mediaType))) return magic;
  return { ...detectTextType(text, isWhole), text };
}

/** Formats with a magic number that may consist of text only. XML is looked at more closely by our own rules. */
const readableFormats = new Set([
  'application/pdf',
  'application/rtf',
  'application/postscript',
  'application/eps',
  'application/pgp-encrypted',
  'text/calendar',
  'text/vcard',
  'text/vtt',
]);

async function findMagic(head: Buffer): Promise<DetectedType | undefined> {
  try {
    const type = await fileTypeFromBuffer(head);
    return type && { mediaType: type.mime.replace(/;.*/, ''), extension: type.ext };
  } catch {
    // A format that was begun and contradicts itself: nothing is known for sure.
    return undefined;
  }
}
