/**
 * From what a handler left in its directory to a result and stored files. Everything here distrusts what it reads:
 * the handler may have run hostile bytes.
 */
import { join } from 'node:path';
import { createAnnounceFiles } from '#shared/db/announce-files.ts';
import { deletePendingFiles } from '#shared/db/files.ts';
import type { Db } from '#shared/db/pool.ts';
import type { StoredOutput } from '#shared/db/settle-runs.ts';
import type { OwnedRun } from '#shared/db/workers.ts';
import { findUnstorable, cleanText } from '#shared/domain/text.ts';
import { AppError } from '#shared/errors.ts';
import { SourceFileError, type Storage } from '#shared/storage/storage.ts';
import type { TaskDefinition } from '#shared/tasks/define-task.ts';
import { createFileRefFinder } from '#shared/tasks/file-refs.ts';
import type { OutputLimits } from '#shared/tasks/task-context.ts';
import { z } from 'zod';
import type { Disk } from './disk.ts';
import { throughOutages } from './through-outages.ts';
import { resultDocument, type OutputDeclaration, type ResultDocument } from './task-host/protocol.ts';

export interface OutputStore {
  /** Handlers are told them. */
  readonly limits: OutputLimits;
  /** What a task host wrote, because it was too long for a message: result and declarations. @throws AppError `result-too-large` or `task-output`. */
  read(dir: string): Promise<ResultDocument>;
  /**
   * Checks the result against the task's schema and stores the output files.
   * @throws AppError `result-too-large` or `task-output`, with what was wrong; the files of the failed run are taken
   *   back before.
   */
  collect(options: {
    run: OwnedRun;
    definition: TaskDefinition;
    inputFileIds: readonly string[];
    returned: { readonly result: unknown; readonly outputs: readonly OutputDeclaration[] };
    outDir: string;
    signal: AbortSignal;
  }): Promise<{ result: unknown; outputs: readonly StoredOutput[] }>;
  /** Deletes announced files and their bytes. Never rejects: the sweep finds what is left. */
  discard(ids: readonly string[]): Promise<void>;
}

const fileNameBytesMax = 255;

export function createOutputStore(options: {
  db: Db;
  storage: Storage;
  disk: Disk;
  limits: OutputLimits;
}): OutputStore {
  const { db, storage, disk, limits } = options;
  const announcements = createAnnounceFiles(db);

  async function read(dir: string): Promise<ResultDocument> {
    const path = join(dir, 'result.json');
    // Declarations of files come on top of the result, and have a limit of their own.
    const bytesMax = limits.resultBytesMax + limits.outputFilesMax * 1_500;
    const text = await disk.readTaskFile({ path, bytesMax }).catch((err: unknown) => {
      throw new AppError('task-output', `The result of the task cannot be read: ${describeOpenError(err)}.`);
    });
    if (text === undefined) throw tooLarge();
    try {
      return resultDocument.parse(JSON.parse(text));
    } catch (err) {
      throw new AppError(
        'task-output',
        'The result of the task is not the JSON document that its host should have written.',
        { cause: err },
      );
    }
  }

  function tooLarge(): AppError {
    return new AppError(
      'result-too-large',
      `The result is larger than ${limits.resultBytesMax} bytes (WINDLASS_RESULT_BYTES_MAX). Put large results into an output file.`,
    );
  }

  async function storeFiles(
    run: OwnedRun,
    outDir: string,
    declared: readonly OutputDeclaration[],
    signal: AbortSignal,
  ): Promise<StoredOutput[]> {
    const ids = declared.map((file) => file.id);
    const files = declared.map((file) => ({
      id: file.id,
      name: cleanName(file.name),
      mediaType: file.mediaType,
    }));
    let tries = 0;
    const announce = async () => {
      tries += 1;
      // An earlier try may have got through although its answer did not.
      if (tries > 1) await deletePendingFiles(db, ids);
      return announcements.add({ run, files });
    };
    if (!(await throughOutages(announce, () => signal.aborted)))
      throw new AppError('task-output', 'The job was taken over by another run.');
    const stored: StoredOutput[] = [];
    try {
      for (const file of files) {
        const put = storage
          .putFile(file.id, join(outDir, file.id), { sizeBytesMax: limits.outputFileBytesMax, signal })
          .catch((err: unknown) => {
            if (!(err instanceof SourceFileError)) throw err;
            throw new AppError(
              'task-output',
              `The output file "${file.name}" cannot be taken: ${describeOpenError(err.cause)}.`,
            );
          });
        stored.push({ ...file, ...(await put) });
      }
      return stored;
    } catch (err) {
      await discard(ids);
      throw err;
    }
  }

  async function discard(ids: readonly string[]): Promise<void> {
    if (ids.length === 0) return;
    try {
      await deletePendingFiles(db, ids);
      await Promise.all(ids.map((id) => storage.delete(id)));
    } catch {
      // Postgres or the disk is away: rows stay pending and bytes unreachable until the sweep.
    }
  }

  return {
    limits,
    discard,
    read,
    async collect({ run, definition, inputFileIds, returned, outDir, signal }) {
      const { result, outputs: declared } = returned;
      const parsed = definition.output.safeParse(result);
      if (!parsed.success)
        throw new AppError(
          'task-output',
          cleanText(`The result does not fit the output schema: ${z.prettifyError(parsed.error)}`, 2_000),
        );
      if (sizeOf(parsed.data) > limits.resultBytesMax) throw tooLarge();
      const unstorable = findUnstorable(parsed.data);
      if (unstorable !== undefined)
        throw new AppError(
          'task-output',
          `The result has a NUL character or half a surrogate pair at ${unstorable}.`,
        );
      if (declared.length > limits.outputFilesMax) {
        throw new AppError(
          'task-output',
          `The task made ${declared.length} output files; at most ${limits.outputFilesMax} are taken (WINDLASS_OUTPUT_FILES_MAX).`,
        );
      }
      if (new Set(declared.map((file) => file.id)).size !== declared.length)
        throw new AppError('task-output', 'The task declared one output file twice.');
      const taken = declared.find((file) => inputFileIds.includes(file.id));
      if (taken !== undefined)
        throw new AppError('task-output', `The task declared its input ${taken.id} as an output.`);
      const known = new Set([...declared.map((file) => file.id), ...inputFileIds]);
      const foreign = findFileRefs(definition)(parsed.data).find((ref) => !known.has(ref.id));
      if (foreign !== undefined)
        throw new AppError(
          'task-output',
          `The result names the file ${foreign.id} at ${foreign.pointer}, which is neither an input nor an output of the job.`,
        );
      const outputs = declared.length === 0 ? [] : await storeFiles(run, outDir, declared, signal);
      return { result: parsed.data, outputs };
    },
  };
}

/** Of the result as JSON, in bytes. @throws AppError `task-output` when it is nested too deep for that. */
function sizeOf(result: unknown): number {
  try {
    return Buffer.byteLength(JSON.stringify(result ?? null));
  } catch (err) {
    throw new AppError('task-output', 'The result is nested too deep.', { cause: err });
  }
}

const finders = new WeakMap<TaskDefinition, ReturnType<typeof createFileRefFinder>>();

function findFileRefs(definition: TaskDefinition): ReturnType<typeof createFileRefFinder> {
  let finder = finders.get(definition);
  if (finder === undefined) {
    finder = createFileRefFinder(definition.output, 'output');
    finders.set(definition, finder);
  }
  return finder;
}

/** What Node says of a file names its path in our directories, which is nothing to a client. */
function describeOpenError(err: unknown): string {
  if (!(err instanceof Error)) return String(err);
  if (!('code' in err)) return err.message;
  return err.code === 'ENOENT' ? 'the task wrote nothing to it' : String(err.code);
}

/** A name for a client to save under, never a path; the task's own naming is kept where possible. */
function cleanName(name: string): string {
  let clean =
    cleanText(name, 1_000).replaceAll('\n', ' ').normalize('NFC').split(/[/\\]/).at(-1)?.trim() ?? '';
  if (clean === '' || clean === '.' || clean === '..') clean = 'file';
  while (Buffer.byteLength(clean) > fileNameBytesMax) clean = clean.slice(0, -1).toWellFormed();
  return clean;
}
