/** Limits of the result that would only be looked at when all is unpacked: better said at once, and what can be done. */
import { InvalidInputError, type InputFile, type OutputLimits } from '#shared/tasks/define-task.ts';

/** @throws InvalidInputError */
export function refuseTooMany(
  file: InputFile,
  count: number,
  { filesMax = Infinity, outputFilesMax }: { filesMax: number | undefined; outputFilesMax: number },
): void {
  if (count <= Math.min(filesMax, outputFilesMax)) return;
  const limit =
    filesMax <= outputFilesMax
      ? `${filesMax} (\`filesMax\`)`
      : `${outputFilesMax}, the most that a job may give (WINDLASS_OUTPUT_FILES_MAX)`;
  throw new InvalidInputError(
    `"${file.name}" has more files to take than ${limit}. Choose fewer with \`include\`.`,
  );
}

/** Room in the result for all but its lists. */
const frameBytes = 200;

/** Counts the items of the result's lists as JSON. `add` throws InvalidInputError. */
export function createListLimit(
  file: InputFile,
  { resultBytesMax }: OutputLimits,
): { add(item: object): void } {
  let bytes = frameBytes;
  return {
    add(item) {
      bytes += JSON.stringify(item).length + 1;
      if (bytes > resultBytesMax) {
        throw new InvalidInputError(
          `The list of the files in "${file.name}" is longer than a result may be, ${resultBytesMax} bytes ` +
            '(WINDLASS_RESULT_BYTES_MAX). Choose fewer with `include`.',
        );
      }
    },
  };
}
