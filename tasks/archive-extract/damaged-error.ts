import { cleanText } from '#shared/domain/text.ts';
import { InvalidInputError, type InputFile } from '#shared/tasks/define-task.ts';

/** The same bytes will fail again. What the library said is kept, but never a path of this machine. */
export function damagedError(file: InputFile, reason: string, cause?: unknown): InvalidInputError {
  const clean = cleanText(reason.replaceAll(file.path, 'it'), 300).trim();
  return new InvalidInputError(`"${file.name}" is damaged or incomplete: ${clean}`, { cause });
}

/**
 * What a library threw while it read the archive, as the job should end with it: its complaints are about the bytes. Errors
 * of the machine (a full disk) and of our code are none of that, and are tried again.
 */
export function explainError(file: InputFile, err: unknown): unknown {
  if (!(err instanceof Error) || err instanceof InvalidInputError || 'syscall' in err) return err;
  const code = 'code' in err ? String(err.code) : '';
  // Sizes and offsets beyond all numbers are refused by Node, when it is asked to read there.
  const isAboutBytes = err.name === 'Error' || code === 'ERR_OUT_OF_RANGE';
  return isAboutBytes && code !== 'Z_MEM_ERROR' ? damagedError(file, err.message, err) : err;
}
