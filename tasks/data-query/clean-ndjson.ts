import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { readCsvRecords } from './csv-records.ts';
import { SkippedRows } from './skipped-rows.ts';
import { readUtf8 } from './text-encoding.ts';

/**
 * Writes a copy of an NDJSON file without the lines that are no JSON, which DuckDB would read as rows of NULL.
 * @returns the lines that were skipped, and how many were written.
 */
export async function cleanNdjson(
  from: string,
  to: string,
  options: { signal: AbortSignal },
): Promise<{ skipped: SkippedRows; written: number }> {
  const skipped = new SkippedRows();
  let written = 0;
  const clean = async function* (chunks: AsyncIterable<string>) {
    for await (const batch of readCsvRecords(chunks, wholeLines)) {
      let text = '';
      for (const { fields, line, problem } of batch) {
        const [content = ''] = fields;
        if (content.trim() === '') continue;
        const reason = problem ?? findJsonProblem(content);
        if (reason !== undefined) {
          skipped.add({ line, reason, text: content });
          continue;
        }
        text += `${content}\n`;
        written += 1;
      }
      yield text;
    }
  };
  await pipeline(readUtf8(from, options.signal), clean, createWriteStream(to), options);
  return { skipped, written };
}

/** No quotes and a delimiter that no line holds: every record is one line. */
const wholeLines = { quote: '', delimiter: '\n' };

function findJsonProblem(text: string): string | undefined {
  try {
    JSON.parse(text);
    return undefined;
  } catch (err) {
    return err instanceof Error ? err.message : 'no JSON';
  }
}
