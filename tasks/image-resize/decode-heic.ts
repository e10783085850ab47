/**
 * HEIC, the format of iPhone photos: the libvips of sharp reads its header but has no HEVC decoder, for patent
 * reasons. libheif compiled to WebAssembly has one; its pixels go on to sharp as a PNG file in the scratch directory.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { InvalidInputError, type InputFile, type TaskContext } from '#shared/tasks/define-task.ts';
import type { HeifError, Libheif } from 'libheif-js/libheif-wasm/libheif-bundle.mjs';
import { damagedError } from './damaged-error.ts';
import type { Source } from './read-source.ts';
import { writePng, type RgbaImage } from './write-png.ts';

/** The decoder wants all of the file in memory. Telephones write 1 to 5 MB. */
const heicBytesMax = 100_000_000;

/**
 * @returns the path of a PNG of the primary image, upright, with its colour profile and metadata.
 * @throws InvalidInputError when the file is too large or cannot be decoded.
 */
export async function decodeHeic(
  file: InputFile,
  { bytes, metadata }: Source,
  ctx: TaskContext,
): Promise<string> {
  if (file.sizeBytes > heicBytesMax) {
    throw new InvalidInputError(
      `"${file.name}" is a HEIC file of ${file.sizeBytes} bytes; at most ${heicBytesMax} are allowed.`,
    );
  }
  // Loaded late, because most workers never see a HEIC file. A new decoder for every file (15 ms): its memory is
  // given back, holds nothing of another tenant, and a file that breaks the decoder breaks it for itself only.
  const { default: createLibheif } = await import('libheif-js/libheif-wasm/libheif-bundle.mjs');
  const decode = createDecoder(createLibheif());
  const path = join(ctx.scratchDir, 'decoded.png');
  const pixels = decodeOrExplain(file, decode, typeof bytes === 'string' ? await readFile(bytes) : bytes);
  const { icc, exif, xmp } = metadata;
  await writePng(path, pixels, { icc, exif, xmp }, ctx.signal);
  return path;
}

function decodeOrExplain(
  file: InputFile,
  decode: (bytes: Uint8Array) => RgbaImage,
  bytes: Uint8Array,
): RgbaImage {
  try {
    return decode(bytes);
  } catch (err) {
    throw damagedError(file, err);
  }
}

/** The pixels that it returns live as long as `libheif` does. */
function createDecoder(libheif: Libheif): (bytes: Uint8Array) => RgbaImage {
  const { heif_colorspace_RGB: rgb } = libheif.heif_colorspace;
  const { heif_chroma_interleaved_RGBA: rgba } = libheif.heif_chroma;
  return (bytes) => {
    const context = libheif.heif_context_alloc();
    const read = libheif.heif_context_read_from_memory(context, bytes);
    if (read.code !== libheif.heif_error_code.heif_error_Ok) throw new Error(read.message);
    const primary = orThrow(libheif.heif_js_context_get_primary_image_handle(context));
    const { channels } = orThrow(libheif.heif_js_decode_image2(primary, rgb, rgba));
    const pixels = channels.find(({ id }) => id === libheif.heif_channel.heif_channel_interleaved);
    if (pixels === undefined) throw new Error('It has no colours.');
    return pixels;
  };
}

/** The bindings answer with what was asked for, or with an error. */
function orThrow<Answer extends object>(answer: Answer | HeifError): Answer {
  if (isError(answer)) throw new Error(answer.message);
  return answer;
}

function isError(answer: object): answer is HeifError {
  return 'code' in answer && 'message' in answer;
}
