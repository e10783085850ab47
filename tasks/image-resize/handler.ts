import { writeFileSync } from 'node:fs';
import {
  type HandlerOf,
  InvalidInputError,
  type InputFile,
  type TaskContext,
  type z,
} from '#shared/tasks/define-task.ts';
import { encoders } from './encoders.ts';
import { outputName } from './output-name.ts';
import { readSource, type Source } from './read-source.ts';
import { renderImage, type RenderRequest } from './render-image.ts';
import { refuseLargeResult } from './refuse-large-result.ts';
import { task } from './task.ts';
import { withBytes } from './with-bytes.ts';

/**
 * Header first, then pixels. The signal is looked at between the steps: a decoder cannot be interrupted from here, and
 * one that takes longer than the platform waits is killed with its process.
 */
export default ((input, ctx) => {
  const file = ctx.file(input.file);
  return withBytes(file, (bytes) => resize(file, bytes, input, ctx));
}) satisfies HandlerOf<typeof task>;

async function resize(
  file: InputFile,
  bytes: Source['bytes'],
  input: z.output<typeof task.input>,
  ctx: TaskContext,
) {
  const source = await readSource(file, bytes);
  const format = input.format === 'keep' ? keptFormat(source) : input.format;
  const request: RenderRequest = {
    ...input,
    format,
    frames: encoders[format].canAnimate ? source.frames : 1,
  };
  refuseImpossible(file, request);
  refuseLargeResult(source, request);
  if (request.frames < source.frames) {
    ctx.log(`A ${format} image cannot be animated: only the first of ${source.frames} frames is used.`);
  }

  ctx.signal.throwIfAborted();
  ctx.progress(10, 'resizing');
  const image = await renderImage(file, source, request, ctx);

  ctx.signal.throwIfAborted();
  const { extension, mediaType } = encoders[format];
  const name = outputName(file.name, extension);
  const output = ctx.output(name, { mediaType });
  // Blocks as reading does (with-bytes.ts): a promise takes three threads' turns for what takes one tenth of a millisecond.
  writeFileSync(output.path, image.data);
  return {
    file: output.id,
    name,
    format,
    mediaType,
    width: image.width,
    height: image.height,
    frames: request.frames,
    sizeBytes: image.data.length,
    source: { format: source.format, width: source.width, height: source.height, frames: source.frames },
  };
}

function keptFormat(source: Source): RenderRequest['format'] {
  return source.format === 'heic' ? 'jpeg' : source.format;
}

/** What depends on the image and so cannot be refused when the job is submitted. */
function refuseImpossible(file: InputFile, request: RenderRequest): void {
  const isStrategy = request.position === 'entropy' || request.position === 'attention';
  if (isStrategy && request.frames > 1) {
    throw new InvalidInputError(
      `"${file.name}" is animated, and "position": "${request.position}" would choose another part in every frame. ` +
        'Choose a direction such as "center", or a format without animation.',
    );
  }
}
