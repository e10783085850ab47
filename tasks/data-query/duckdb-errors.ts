import { InvalidInputError } from '#shared/tasks/define-task.ts';

/**
 * What an error of DuckDB means for the job. DuckDB begins each message with the kind of the error.
 * - The disk, a limit of this machine, or a bug: thrown on as it is, the job is tried again.
 * - Too little memory: the same data and statement would need as much again, so the job fails for good.
 * - All else is about the statement or the data: fails for good with DuckDB's own words.
 */
export function explainDuckdbError(
  err: unknown,
  options: { about: string; edit?: (message: string) => string },
): unknown {
  if (!(err instanceof Error)) return err;
  if (/^(INTERNAL|FATAL|INTERRUPT|Connection) Error/.test(err.message) || isMachineTrouble(err.message)) {
    return err;
  }
  const { about, edit = (message) => message } = options;
  if (err.message.startsWith('Out of Memory Error')) {
    return new InvalidInputError(
      `${about}: it needs more memory and spill space than a job has. Select fewer columns, filter earlier, or aggregate before sorting and joining.`,
      { cause: err },
    );
  }
  return new InvalidInputError(`${about}: ${edit(firstPart(err.message))}`, { cause: err });
}

/** `LINE 3: …` counts from the statement that ran, in which the caller's began `lines` lines later. */
export function shiftLineNumber(message: string, lines: number): string {
  return message.replace(/^LINE (\d+):/m, (_, line: string) => `LINE ${Number(line) - lines}:`);
}

/** Without the line of a statement of our own, and with the file's name where its path was. */
export function aboutFile(message: string, file: { path: string; name: string }): string {
  const [text = message] = message.split(/\n+LINE \d+:/);
  return text.replaceAll(file.path, file.name);
}

function isMachineTrouble(message: string): boolean {
  return (
    message.startsWith('IO Error') &&
    /No space left|Input\/output error|Too many open files|Permission denied|Read-only file system/.test(
      message,
    )
  );
}

/** Messages about files end in a page of advice about DuckDB's settings, which the caller cannot use. */
function firstPart(message: string): string {
  const text = message.replace(/^Failed to extract statements: /, '');
  return text.split(/\n+(?:Possible (?:fixes|solutions?)|See also https?:)/i)[0]?.trim() ?? text;
}
