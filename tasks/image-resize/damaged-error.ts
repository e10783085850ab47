import { InvalidInputError, type InputFile } from '#shared/tasks/define-task.ts';

/** The decoder gave up: the same bytes will fail again. What it said is kept, but never a path of this machine. */
export function damagedError(file: InputFile, err: unknown): InvalidInputError {
  const said = err instanceof Error ? err.message : String(err);
  const reason = said
    .split('\n')
    .map((line) => line.replace(/^Input (file|buffer) has corrupt header:\s*/, '').trim())
    .filter((line) => line !== '' && !line.includes(file.path) && !/bad seek|to target/.test(line))
    .join('; ')
    .slice(0, reasonCharactersMax);
  return new InvalidInputError(
    `"${file.name}" is damaged or incomplete${reason === '' ? '' : `: ${reason}`}.`,
    {
      cause: err,
    },
  );
}

const reasonCharactersMax = 200;
