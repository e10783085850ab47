/**
 * Whether a GIF goes on to its end. The decoder of libvips takes one that breaks off for a shorter animation, and what
 * was lost in an upload would be lost in silence. Only the trailer may be missing; some programs forget it.
 *
 * Structure: GIF89a specification, appendix A.
 */
import { ByteReader } from './byte-reader.ts';

const introducer = { extension: 0x21, image: 0x2c, trailer: 0x3b } as const;

export async function isGifComplete(path: string): Promise<boolean> {
  await using bytes = await ByteReader.open(path);
  bytes.skip('GIF89a'.length + 4);
  bytes.skip(colourTableBytes(await bytes.next()) + 2);
  for (;;) {
    const block = await bytes.next();
    if (block === undefined || block === introducer.trailer) return true;
    if (block === introducer.image) {
      bytes.skip(8);
      bytes.skip(colourTableBytes(await bytes.next()) + 1);
    } else if (block === introducer.extension) {
      bytes.skip(1);
    } else {
      // Other decoders stop here as well, and show what they have.
      return true;
    }
    if (!(await skipSubBlocks(bytes))) return false;
  }
}

/** @returns false when the file ends before they do. */
async function skipSubBlocks(bytes: ByteReader): Promise<boolean> {
  for (;;) {
    const length = await bytes.next();
    if (length === undefined) return false;
    if (length === 0) return true;
    bytes.skip(length);
  }
}

function colourTableBytes(flags = 0): number {
  return (flags & 0x80) === 0 ? 0 : 3 * 2 ** ((flags & 7) + 1);
}
