import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { imagePixelsMax } from '#shared/tasks/safe-sharp.ts';
import { encoders } from './encoders.ts';
import { animationPixelsMax, type Source } from './read-source.ts';
import { targetSize, type SizeRequest } from './target-size.ts';

/**
 * A few pixels can be asked to become billions: 10 × 5,000 at width 9,000 is 4.5 million rows.
 * @throws InvalidInputError when the result would be larger than what may come in, or than its format can hold.
 */
export function refuseLargeResult(
  source: Source,
  request: SizeRequest & { readonly format: keyof typeof encoders; readonly frames: number },
): void {
  const { width, height } = targetSize(source, request);
  const { sideMax } = encoders[request.format];
  const result = `The result would have ${width} × ${height} pixels`;
  if (width > sideMax || height > sideMax) {
    throw new InvalidInputError(`${result}; a side of a ${request.format} image has at most ${sideMax}.`);
  }
  if (width * height > imagePixelsMax) {
    throw new InvalidInputError(`${result}; at most ${imagePixelsMax} together are allowed.`);
  }
  if (width * height * request.frames > animationPixelsMax) {
    throw new InvalidInputError(
      `${result} in each of ${request.frames} frames; at most ${animationPixelsMax} together are allowed.`,
    );
  }
}
