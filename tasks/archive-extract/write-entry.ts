import { open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { detectType, headBytes } from '#shared/file-types/detect-type.ts';
import type { TaskContext } from '#shared/tasks/define-task.ts';
import type { ArchiveEntry } from './archive-entry.ts';
import { entryName } from './entry-path.ts';
import type { ExtractResult } from './task.ts';

/** Writes an entry to an output file. The type is known when the beginning is there, and only then the output can be started. */
export async function writeEntry(
  ctx: TaskContext,
  entry: ArchiveEntry,
  path: string,
  onBytes: (bytes: number) => void,
): Promise<ExtractResult['files'][number]> {
  const temporary = join(ctx.scratchDir, 'entry');
  const head: Uint8Array[] = [];
  let sizeBytes = 0;
  const handle = await open(temporary, 'w');
  try {
    for await (const chunk of entry.read()) {
      ctx.signal.throwIfAborted();
      onBytes(chunk.length);
      if (sizeBytes < headBytes) head.push(chunk);
      sizeBytes += chunk.length;
      await handle.writeFile(chunk);
    }
  } finally {
    await handle.close();
  }
  const { mediaType } = await detectType(Buffer.concat(head).subarray(0, headBytes), sizeBytes <= headBytes);
  const name = entryName(path);
  const output = ctx.output(name, { mediaType });
  await rename(temporary, output.path);
  return { file: output.id, name, path, sizeBytes, mediaType };
}
