import { createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { crc32, createDeflate, deflateSync } from 'node:zlib';

export interface RgbaImage {
  readonly width: number;
  readonly height: number;
  /** Bytes from one row to the next. */
  readonly stride: number;
  /** Eight bits each of red, green, blue and alpha. */
  readonly data: Uint8Array;
}

export interface PngMetadata {
  readonly icc?: Buffer | undefined;
  /** A TIFF structure, with or without `Exif\0\0` before it. */
  readonly exif?: Buffer | undefined;
  readonly xmp?: Buffer | undefined;
}

/**
 * Writes pixels together with their colour profile, uncompressed, row by row: the way to hand decoded pixels to sharp
 * so that it converts their colours (its raw input knows no profile). Memory does not grow with the image.
 */
export async function writePng(
  path: string,
  image: RgbaImage,
  metadata: PngMetadata,
  signal: AbortSignal,
): Promise<void> {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(image.width, 0);
  header.writeUInt32BE(image.height, 4);
  header.set([8, 6, 0, 0, 0], 8); // 8 bits, RGBA, and the only compression, filters and no interlacing.

  await pipeline(
    Readable.from(scanlines(image)),
    createDeflate({ level: 0, chunkSize: 256 * 1024 }),
    async function* (compressed: AsyncIterable<Buffer>) {
      yield Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
      yield chunk('IHDR', header);
      if (metadata.icc)
        yield chunk('iCCP', Buffer.concat([Buffer.from('icc\0\0', 'latin1'), deflateSync(metadata.icc)]));
      if (metadata.exif) yield chunk('eXIf', withoutPrefix(metadata.exif));
      if (metadata.xmp)
        yield chunk(
          'iTXt',
          Buffer.concat([Buffer.from('XML:com.adobe.xmp\0\0\0\0\0', 'latin1'), metadata.xmp]),
        );
      for await (const data of compressed) yield chunk('IDAT', data);
      yield chunk('IEND', Buffer.alloc(0));
    },
    createWriteStream(path),
    { signal },
  );
}

/** Each row with the number of its filter, 0, before it; many at a time, because a stream is slow per piece. */
function* scanlines({ width, height, stride, data }: RgbaImage): Generator<Buffer> {
  const rowBytes = 1 + width * 4;
  const rowsAtOnce = Math.max(1, Math.floor((256 * 1024) / rowBytes));
  for (let first = 0; first < height; first += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, height - first);
    const lines = Buffer.alloc(rows * rowBytes);
    for (let row = 0; row < rows; row += 1) {
      const from = (first + row) * stride;
      lines.set(data.subarray(from, from + width * 4), row * rowBytes + 1);
    }
    yield lines;
  }
}

function chunk(type: string, data: Buffer): Buffer {
  const framed = Buffer.alloc(data.length + 12);
  framed.writeUInt32BE(data.length, 0);
  framed.write(type, 4, 'latin1');
  framed.set(data, 8);
  framed.writeUInt32BE(crc32(framed.subarray(4, data.length + 8)), data.length + 8);
  return framed;
}

function withoutPrefix(exif: Buffer): Buffer {
  const prefix = 'Exif\0\0';
  return exif.subarray(0, prefix.length).toString('latin1') === prefix ? exif.subarray(prefix.length) : exif;
}
