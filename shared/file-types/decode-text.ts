export interface DecodedText {
  readonly content: string;
  readonly charset: 'us-ascii' | 'utf-8' | 'utf-16le' | 'utf-16be' | 'windows-1252' | 'unknown-8bit';
  readonly hasByteOrderMark: boolean;
}

/**
 * The beginning of a text, if that is what the bytes are: no control characters but those that texts have.
 * @param isWhole whether the text ends with `bytes`; otherwise the last character may be cut in two.
 */
export function decodeText(bytes: Buffer, isWhole: boolean): DecodedText | undefined {
  const mark = byteOrderMarks.find(([, start]) => bytes.subarray(0, start.length).equals(start));
  if (mark !== undefined) {
    const content = decode(mark[0], bytes, isWhole);
    return content === undefined ? undefined : { content, charset: mark[0], hasByteOrderMark: true };
  }
  const utf8 = decode('utf-8', bytes, isWhole);
  if (utf8 !== undefined) {
    return {
      content: utf8,
      charset: utf8.length === bytes.length ? 'us-ascii' : 'utf-8',
      hasByteOrderMark: false,
    };
  }
  const wide = guessWide(bytes);
  if (wide !== undefined) {
    const content = decode(wide, bytes, isWhole);
    return content === undefined ? undefined : { content, charset: wide, hasByteOrderMark: false };
  }
  return decodeEightBit(bytes);
}

type Unicode = 'utf-8' | 'utf-16le' | 'utf-16be';

const byteOrderMarks: readonly (readonly [Unicode, Buffer])[] = [
  ['utf-8', Buffer.from([0xef, 0xbb, 0xbf])],
  ['utf-16le', Buffer.from([0xff, 0xfe])],
  ['utf-16be', Buffer.from([0xfe, 0xff])],
];

function decode(charset: Unicode, bytes: Buffer, isWhole: boolean): string | undefined {
  try {
    const content = new TextDecoder(charset, { fatal: true }).decode(bytes, { stream: !isWhole });
    return controls.test(content) ? undefined : content;
  } catch {
    return undefined;
  }
}

/** Allowed are tab, line feed, form feed, carriage return, and the escape of terminal colours. */
// oxlint-disable-next-line no-control-regex -- control characters are what is looked for
const controls = /[\u0000-\u0008\u000b\u000e-\u001a\u001c-\u001f\u007f]/;

/** In western text every other byte of UTF-16 is zero. */
function guessWide(bytes: Buffer): 'utf-16le' | 'utf-16be' | undefined {
  if (bytes.length < 4 || bytes.length % 2 !== 0) return undefined;
  const zeros = [0, 0];
  for (const [index, byte] of bytes.entries()) {
    if (byte === 0) zeros[index % 2] = (zeros[index % 2] ?? 0) + 1;
  }
  const [even = 0, odd = 0] = zeros;
  const half = bytes.length / 2;
  if (odd > half * 0.6 && even < half * 0.1) return 'utf-16le';
  if (even > half * 0.6 && odd < half * 0.1) return 'utf-16be';
  return undefined;
}

/** Old one-byte charsets cannot be told apart for sure; few letters with accents look like western Europe. */
function decodeEightBit(bytes: Buffer): DecodedText | undefined {
  const content = bytes.toString('latin1');
  if (controls.test(content)) return undefined;
  let high = 0;
  for (const byte of bytes) if (byte >= 0x80) high += 1;
  const isUndefined = [0x81, 0x8d, 0x8f, 0x90, 0x9d].some((byte) => bytes.includes(byte));
  if (!isUndefined && high < bytes.length * 0.3) {
    const decoded = new TextDecoder('windows-1252').decode(bytes);
    return { content: decoded, charset: 'windows-1252', hasByteOrderMark: false };
  }
  // Any bytes may look like this when they are few; many with spaces and without a single control character are text.
  if (bytes.length < 64 || !/[ \n]/.test(content)) return undefined;
  return { content, charset: 'unknown-8bit', hasByteOrderMark: false };
}
