import type { InputFile, TaskContext } from '#shared/tasks/define-task.ts';
import { imagePixelsMax, sharp } from '#shared/tasks/safe-sharp.ts';
import type { ResizeOptions, Sharp } from 'sharp';
import { damagedError } from './damaged-error.ts';
import { decodeHeic } from './decode-heic.ts';
import { encoders, type EncodeOptions } from './encoders.ts';
import { animationPixelsMax, type Source } from './read-source.ts';
import { effectiveFit, type SizeRequest } from './target-size.ts';

export interface RenderRequest extends SizeRequest, EncodeOptions {
  readonly format: keyof typeof encoders;
  /** Of the result: 1 takes the first frame only. */
  readonly frames: number;
  readonly position: string;
  readonly background: string;
  readonly keepMetadata: boolean;
}

export interface RenderedImage {
  readonly data: Buffer;
  readonly width: number;
  /** Of one frame. */
  readonly height: number;
}

/**
 * libvips stops a pipeline that has run for this long, in s. Ten times what the largest animation took here; encoders
 * do not look at it, for them there is the time limit of the job.
 */
const pipelineSecondsMax = 120;

/** Decodes, resizes and encodes in one pipeline. @throws InvalidInputError when the bytes cannot be decoded. */
export async function renderImage(
  file: InputFile,
  source: Source,
  request: RenderRequest,
  ctx: TaskContext,
): Promise<RenderedImage> {
  const image = await openImage(file, source, request, ctx);
  const resized = resize(image, source, request).timeout({ seconds: pipelineSecondsMax });
  try {
    const { data, info } = await encoders[request.format]
      .encode(resized, request)
      .toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.pageHeight ?? info.height };
  } catch (err) {
    // Says nothing about the bytes: the machine may only be busy, so the job may try again.
    if (err instanceof Error && err.message.includes('timeout')) throw err;
    throw damagedError(file, err);
  }
}

async function openImage(
  file: InputFile,
  source: Source,
  request: RenderRequest,
  ctx: TaskContext,
): Promise<Sharp> {
  if (source.format === 'heic') {
    const path = await decodeHeic(file, source, ctx);
    // libheif has turned it upright, and adds an opaque alpha channel of its own.
    const image = sharp(path, { limitInputPixels: imagePixelsMax });
    return source.metadata.hasAlpha ? image : image.removeAlpha();
  }
  const isAnimated = request.frames > 1;
  return sharp(source.bytes, {
    animated: isAnimated,
    limitInputPixels: isAnimated ? animationPixelsMax : imagePixelsMax,
    failOn: 'warning',
  }).autoOrient();
}

function resize(image: Sharp, source: Source, request: RenderRequest): Sharp {
  const background = backgroundColour(request);
  const options: ResizeOptions = {
    fit: effectiveFit(request),
    position: request.position,
    background,
    withoutEnlargement: request.withoutEnlargement,
    ...(request.width !== undefined && { width: request.width }),
    ...(request.height !== undefined && { height: request.height }),
  };
  const resized = request.width === undefined && request.height === undefined ? image : image.resize(options);
  const flat = request.format === 'jpeg' ? resized.flatten({ background }) : resized;
  // Told nothing, sharp converts to sRGB and writes no metadata: colours look right everywhere.
  if (!request.keepMetadata) return flat;
  // The EXIF of a HEIC file may still say how it was turned before; this also converts it to sRGB.
  return source.format === 'heic' ? flat.withMetadata({ orientation: 1 }) : flat.keepMetadata();
}

/** JPEG has no transparency: what is left of a transparent colour there is the colour. */
function backgroundColour({ background, format }: RenderRequest): string {
  const colour = background === 'transparent' ? '#ffffff00' : background;
  return format === 'jpeg' ? colour.slice(0, '#rrggbb'.length) : colour;
}
