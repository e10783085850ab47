import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { InvalidInputError, type HandlerOf } from 'windlass/task';
import type { task } from './task.ts';

export default (async (input, ctx) => {
  const text = ctx.file(input.file);
  const counts = new Map<string, number>();
  let words = 0;
  let bytes = 0;

  for await (const line of createInterface({ input: createReadStream(text.path), signal: ctx.signal })) {
    for (const [word] of line.toLowerCase().matchAll(/\p{L}[\p{L}\p{M}’'-]*/gu)) {
      counts.set(word, (counts.get(word) ?? 0) + 1);
      words += 1;
    }
    bytes += Buffer.byteLength(line) + 1;
    ctx.progress(Math.min(99, Math.floor((bytes / text.sizeBytes) * 100)), `${words} words`);
  }
  // Leaving the loop early is no error, so a job that was stopped has to say so.
  ctx.signal.throwIfAborted();
  if (words === 0) throw new InvalidInputError(`There is no word in "${text.name}".`);

  const ranking = [...counts].toSorted(([a, n], [b, m]) => m - n || a.localeCompare(b));
  const output = ctx.output('words.csv', { mediaType: 'text/csv; charset=utf-8' });
  await writeFile(output.path, ['word,count', ...ranking.map((row) => row.join(',')), ''].join('\n'));
  const top = ranking.slice(0, input.top).map(([word, count]) => ({ word, count }));
  return { words, top, file: output.id };
}) satisfies HandlerOf<typeof task>;
