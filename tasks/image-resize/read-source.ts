/** Looks at the header of an image and refuses what must not be decoded. No pixel is decoded here. */
import { InvalidInputError, type InputFile } from '#shared/tasks/define-task.ts';
import { imagePixelsMax, sharp } from '#shared/tasks/safe-sharp.ts';
import type { Metadata } from 'sharp';
import { countJpegScans } from './count-jpeg-scans.ts';
import { damagedError } from './damaged-error.ts';
import { describeBytes } from './describe-bytes.ts';
import { isGifComplete } from './is-gif-complete.ts';

export interface Source {
  /** What sharp reads (with-bytes.ts). */
  readonly bytes: Buffer | string;
  readonly format: 'jpeg' | 'png' | 'webp' | 'avif' | 'gif' | 'heic';
  /** Upright, of one frame. */
  readonly width: number;
  readonly height: number;
  readonly frames: number;
  readonly metadata: Metadata;
}

export const framesMax = 500;

/** Most pixels of all frames together. They are decoded one after the other, so this limits time, not memory. */
export const animationPixelsMax = 200_000_000;

/** Encoders write ten or so; see count-jpeg-scans.ts for what more of them do. */
const jpegScansMax = 100;

/** @throws InvalidInputError saying what was found instead of an image that can be resized. */
export async function readSource(file: InputFile, bytes: Source['bytes']): Promise<Source> {
  if (file.sizeBytes === 0) throw new InvalidInputError(`"${file.name}" is empty.`);
  const metadata = await readMetadata(file, bytes);
  const format = sourceFormat(metadata);
  if (format === undefined) throw await notAnImage(file);

  const { width, height } = metadata.autoOrient;
  const frames = format === 'gif' || format === 'webp' ? (metadata.pages ?? 1) : 1;
  const pixels = width * height;
  if (pixels > imagePixelsMax) {
    throw new InvalidInputError(
      `"${file.name}" has ${width} × ${height} pixels, ${megapixels(pixels)}; at most ${megapixels(imagePixelsMax)} are allowed.`,
    );
  }
  if (frames > framesMax) {
    throw new InvalidInputError(`"${file.name}" has ${frames} frames; at most ${framesMax} are allowed.`);
  }
  if (pixels * frames > animationPixelsMax) {
    throw new InvalidInputError(
      `"${file.name}" has ${frames} frames of ${width} × ${height} pixels, together ${megapixels(pixels * frames)}; ` +
        `at most ${megapixels(animationPixelsMax)} are allowed.`,
    );
  }
  if (format === 'gif' && !(await isGifComplete(file.path)))
    throw damagedError(file, 'the file ends too early');
  if (format === 'jpeg' && metadata.isProgressive) {
    const scans = await countJpegScans(file.path, jpegScansMax);
    if (scans > jpegScansMax) {
      throw new InvalidInputError(
        `"${file.name}" is a progressive JPEG with more than ${jpegScansMax} scans, which no camera or program writes.`,
      );
    }
  }
  return { bytes, format, width, height, frames, metadata };
}

async function readMetadata(file: InputFile, bytes: Source['bytes']): Promise<Metadata> {
  try {
    // The limit is checked above, where the message can say the size.
    return await sharp(bytes, { limitInputPixels: false }).metadata();
  } catch (err) {
    const said = err instanceof Error ? err.message : '';
    if (said.includes('unsupported image format')) throw await notAnImage(file);
    if (said.includes('corrupt header')) throw damagedError(file, err);
    throw err;
  }
}

function sourceFormat(metadata: Metadata): Source['format'] | undefined {
  switch (metadata.format) {
    case 'jpeg':
    case 'png':
    case 'webp':
    case 'gif':
      return metadata.format;
    case 'heif':
      if (metadata.compression === 'av1') return 'avif';
      return metadata.compression === 'hevc' ? 'heic' : undefined;
    default:
      return undefined;
  }
}

async function notAnImage(file: InputFile): Promise<InvalidInputError> {
  return new InvalidInputError(
    `"${file.name}" is ${await describeBytes(file.path)}; an image must be JPEG, PNG, WebP, AVIF, GIF or HEIC.`,
  );
}

function megapixels(pixels: number): string {
  return `${Number((pixels / 1_000_000).toPrecision(3))} megapixels`;
}
