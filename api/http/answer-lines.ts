/**
 * Answers a stream of things with a stream of lines, one for each and in their order, while the work on several is under
 * way. Both sides are held back: no more work is begun while too much waits for its answer to be written, and a client that
 * does not read its answers is cut off instead of having them kept for it.
 */
import type { ServerResponse } from 'node:http';
import { AppError } from '#shared/errors.ts';

export interface AnswerLines {
  /**
   * Begins `work` when there is room, and resolves then. What it resolves to becomes a line of JSON after those of all before.
   * @param bytes what it holds in memory.
   * @throws AppError `upload-incomplete`, `request-timeout` when the client is gone or does not read.
   */
  add(bytes: number, work: () => Promise<unknown>): Promise<void>;
  /** Resolves when all has been written. @throws as `add`. */
  written(): Promise<void>;
}

/** Things under way at once: enough to share commits. 256 were no faster, and what waits for the database is limited as a whole. */
export const itemsMax = 64;
const bytesMax = 1024 * 1024;

/** @param options.idleMs a client that has not read for so long is cut off (WINDLASS_UPLOAD_IDLE_MS). */
export function createAnswerLines(res: ServerResponse, options: { idleMs: number }): AnswerLines {
  const { idleMs } = options;
  let items = 0;
  let bytes = 0;
  let failure: AppError | undefined;
  let tail: Promise<void> = Promise.resolve();
  let onRoom: (() => void) | undefined;

  function fail(err: AppError): void {
    failure ??= err;
    onRoom?.();
  }
  // Also while nothing is being written.
  res.once('close', () => fail(gone()));

  async function answer(working: Promise<unknown>): Promise<void> {
    const line = await working;
    if (failure !== undefined || res.write(`${JSON.stringify(line)}\n`)) return;
    await drained();
  }

  function drained(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        res.off('drain', done);
        res.off('close', done);
        resolve();
      };
      const timer = setTimeout(() => {
        fail(
          new AppError(
            'request-timeout',
            `Answers were not read for ${idleMs} ms (WINDLASS_UPLOAD_IDLE_MS).`,
          ),
        );
        res.destroy();
      }, idleMs);
      res.on('drain', done);
      res.on('close', done);
    });
  }

  return {
    async add(size, work) {
      while (failure === undefined && items > 0 && (items >= itemsMax || bytes + size > bytesMax)) {
        await new Promise<void>((resolve) => {
          onRoom = resolve;
        });
      }
      if (failure !== undefined) throw failure;
      items += 1;
      bytes += size;
      const working = work();
      tail = tail
        .then(() => answer(working))
        // Only a mistake in `work` gets here, which says everything else itself.
        .catch((err: unknown) =>
          fail(new AppError('internal', 'A line could not be answered.', { cause: err })),
        )
        .then(() => {
          items -= 1;
          bytes -= size;
          onRoom?.();
        });
    },
    async written() {
      await tail;
      if (failure !== undefined) throw failure;
    },
  };
}

function gone(): AppError {
  return new AppError('upload-incomplete', 'The connection ended before all lines were answered.');
}
