import { cleanText } from '#shared/domain/text.ts';
import { uuidv7 } from '#shared/ids.ts';
import { EffectUnknownError, InvalidInputError, NotNowError } from '#shared/tasks/task-errors.ts';
import type { InlineTaskContext, InputFile, TaskContext } from '#shared/tasks/task-context.ts';
import { z } from 'zod';
import { loadHandler } from '../load-handler.ts';
import { outputFile, type OutputDeclaration, type RunMessage, type ThrownKind } from './protocol.ts';

export type HandlerEnd =
  | { readonly type: 'returned'; readonly result: unknown; readonly outputs: readonly OutputDeclaration[] }
  | {
      readonly type: 'threw';
      readonly kind: ThrownKind;
      readonly message: string;
      readonly delayMs?: number;
    };

/** What the handler's context is connected to. */
export interface HandlerIo {
  readonly signal: AbortSignal;
  readonly softSignal: AbortSignal;
  readonly progress: TaskContext['progress'];
  readonly log: TaskContext['log'];
  /** Called when the handler first asks for it; makes the directory. */
  scratchDir(): string;
  outputPath(id: string): string;
  /** Only for inline tasks. */
  readonly services?: Omit<InlineTaskContext, keyof TaskContext>;
}

/** Runs one handler with its context, and checks input and result against the task's schemas. Never rejects. */
export async function runHandler(
  run: Omit<RunMessage, 'type' | 'run' | 'runDir'>,
  io: HandlerIo,
): Promise<HandlerEnd> {
  try {
    const { definition, handler } = await loadHandler(run.task, run.handlerUrl);
    const input = definition.input.safeParse(run.input);
    // Checked when it was accepted; fails here only when the task's schema has become stricter since.
    if (!input.success)
      return {
        type: 'threw',
        kind: 'invalid-input',
        message: cleanText(z.prettifyError(input.error), 2_000),
      };
    const outputs: OutputDeclaration[] = [];
    const returned = await handler(input.data, createContext(run, io, outputs));
    const parsed = definition.output.safeParse(returned);
    if (!parsed.success)
      return { type: 'threw', kind: 'bad-output', message: describeMismatch(parsed.error) };
    return { type: 'returned', result: parsed.data ?? null, outputs };
  } catch (err) {
    return describeError(err);
  }
}

function createContext(
  run: Omit<RunMessage, 'type' | 'run' | 'runDir'>,
  io: HandlerIo,
  outputs: OutputDeclaration[],
): TaskContext {
  const files = new Map<string, InputFile>(run.files.map((file) => [file.id, file]));
  return {
    jobId: run.jobId,
    attempt: run.attempt,
    tenantId: run.tenantId,
    signal: io.signal,
    softSignal: io.softSignal,
    progress: io.progress,
    log: io.log,
    limits: run.limits,
    get scratchDir() {
      return io.scratchDir();
    },
    file(id) {
      const file = files.get(id);
      if (file === undefined)
        throw new TypeError(
          `File ${id} is not part of this job's input. Declare it with fileRef() in the input schema.`,
        );
      return file;
    },
    output(name, { mediaType }) {
      const id = uuidv7();
      const declaration = outputFile.safeParse({ id, name, mediaType });
      // Here, where the handler's author sees the line; the worker refuses the whole result for it.
      if (!declaration.success)
        throw new TypeError(`ctx.output() cannot make such a file: ${z.prettifyError(declaration.error)}`);
      outputs.push(declaration.data);
      return { id, path: io.outputPath(id) };
    },
    ...io.services,
  };
}

function describeMismatch(error: z.ZodError): string {
  return cleanText(
    `The handler returned something else than its output schema declares: ${z.prettifyError(error)}`,
    2_000,
  );
}

/** @returns a `threw` end for anything that a handler may throw. */
export function describeError(err: unknown): Extract<HandlerEnd, { type: 'threw' }> {
  const message = cleanText(readMessage(err), 2_000);
  if (err instanceof InvalidInputError) return { type: 'threw', kind: 'invalid-input', message };
  if (err instanceof EffectUnknownError) return { type: 'threw', kind: 'effect-unknown', message };
  if (err instanceof NotNowError) {
    // Computed from a date, it may have passed already or be no number at all.
    const delay = Number.isFinite(err.delayMs) && { delayMs: Math.max(0, err.delayMs) };
    return { type: 'threw', kind: 'not-now', message, ...delay };
  }
  return { type: 'threw', kind: 'error', message };
}

/** Anything can be thrown, also what throws when it is looked at. */
function readMessage(err: unknown): string {
  try {
    // A message may be anything, whatever its type says.
    const message: unknown = err instanceof Error ? err.message : err;
    return isOverFileLimit(err) ? `${String(message)}. ${overFileLimit}` : String(message);
  } catch {
    return 'The handler threw a value that has no text.';
  }
}

const overFileLimit = 'A task may not write a larger file (WINDLASS_HOST_FILE_BYTES_MAX of the worker).';

/** The kernel's words for RLIMIT_FSIZE do not say whose limit it was. */
function isOverFileLimit(err: unknown): boolean {
  return err instanceof Error && 'code' in err && err.code === 'EFBIG';
}
