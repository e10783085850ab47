import { mkdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { uuidv7 } from '#shared/ids.ts';
import { cleanText } from '#shared/domain/text.ts';
import { InvalidInputError, NotNowError } from '#shared/tasks/task-errors.ts';
import type { InputFile, TaskContext } from '#shared/tasks/task-context.ts';
import { loadHandler } from '../load-handler.ts';
import type { FromHost, OutputDeclaration, RunMessage } from './protocol.ts';

type WithoutUsage<Message> = Message extends unknown ? Omit<Message, 'rssBytes' | 'hasSpawned'> : never;
type RunEnd = WithoutUsage<Extract<FromHost, { type: 'returned' | 'threw' }>>;

/** Runs one handler with its context and writes the result to `result.json`. Never rejects. */
export async function runHandler(
  run: RunMessage,
  io: { signal: AbortSignal; progress: TaskContext['progress']; log: TaskContext['log'] },
): Promise<RunEnd> {
  try {
    const { definition, handler } = await loadHandler(run.task, run.handlerUrl);
    const input = definition.input.safeParse(run.input);
    // Checked when it was accepted; fails here only when the task's schema has become stricter since.
    if (!input.success) return { type: 'threw', kind: 'invalid-input', message: cleanText(z.prettifyError(input.error), 2_000) };
    const outputs: OutputDeclaration[] = [];
    const returned = await handler(input.data, createContext(run, io, outputs));
    const parsed = definition.output.safeParse(returned);
    if (!parsed.success) return { type: 'threw', kind: 'bad-output', message: describeMismatch(parsed.error) };
    // Typed as always a string, but undefined for undefined.
    const json = JSON.stringify({ result: parsed.data ?? null, outputs });
    await writeFile(join(run.runDir, 'result.json'), json);
    return { type: 'returned', outputCount: outputs.length };
  } catch (err) {
    return describeError(err);
  }
}

function createContext(
  run: RunMessage,
  io: { signal: AbortSignal; progress: TaskContext['progress']; log: TaskContext['log'] },
  outputs: OutputDeclaration[],
): TaskContext {
  const files = new Map<string, InputFile>(run.files.map((file) => [file.id, file]));
  const scratchDir = join(run.runDir, 'tmp');
  const outDir = join(run.runDir, 'out');
  mkdirSync(scratchDir, { recursive: true });
  return {
    jobId: run.jobId,
    attempt: run.attempt,
    tenantId: run.tenantId,
    signal: io.signal,
    progress: io.progress,
    log: io.log,
    scratchDir,
    file(id) {
      const file = files.get(id);
      if (file === undefined) throw new TypeError(`File ${id} is not part of this job's input. Declare it with fileRef() in the input schema.`);
      return file;
    },
    output(name, { mediaType }) {
      const id = uuidv7();
      outputs.push({ id, name, mediaType });
      return { id, path: join(outDir, id) };
    },
  };
}

function describeMismatch(error: z.ZodError): string {
  return cleanText(`The handler returned something else than its output schema declares: ${z.prettifyError(error)}`, 2_000);
}

function describeError(err: unknown): RunEnd {
  const message = cleanText(err instanceof Error ? err.message : String(err), 2_000);
  // By name as well: a user's task directory may hold its own copy of the classes.
  if (err instanceof InvalidInputError || (err instanceof Error && err.name === 'InvalidInputError')) {
    return { type: 'threw', kind: 'invalid-input', message };
  }
  if (err instanceof NotNowError) return { type: 'threw', kind: 'not-now', message, delayMs: err.delayMs };
  return { type: 'threw', kind: 'error', message };
}
