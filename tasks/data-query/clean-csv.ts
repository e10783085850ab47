/**
 * Writes a copy of a CSV file that DuckDB cannot misread: commas, quotes where needed, `\n`, and only rows with as
 * many fields as the first row of the table. The others are counted and described, never dropped in silence.
 */
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { CsvDialect } from './csv-dialect.ts';
import { readCsvRecords, type CsvRecord } from './csv-records.ts';
import { SkippedRows } from './skipped-rows.ts';
import { readUtf8 } from './text-encoding.ts';

/**
 * @param from a file in UTF-8.
 * @param options `padShortRows` fills missing fields at the end of a row instead of skipping it.
 * @returns the rows that were skipped, and how many were written (the header included).
 */
export async function cleanCsv(
  from: string,
  to: string,
  options: { dialect: CsvDialect; padShortRows: boolean; signal: AbortSignal },
): Promise<{ skipped: SkippedRows; written: number }> {
  const { dialect, padShortRows, signal } = options;
  const skipped = new SkippedRows();
  let written = 0;

  const clean = async function* (chunks: AsyncIterable<string>) {
    for await (const batch of readCsvRecords(chunks, dialect)) {
      let text = '';
      for (const record of batch) {
        if (record.line <= dialect.skipLines || isBlank(record, dialect)) continue;
        const fit = fitRow(record, { width: dialect.width, padShortRows });
        if ('problem' in fit) {
          skipped.add({
            line: record.line,
            reason: fit.problem,
            text: record.fields.join(dialect.delimiter),
          });
          continue;
        }
        text += `${fit.fields.map(encodeField).join(',')}\n`;
        written += 1;
      }
      yield text;
    }
  };
  await pipeline(readUtf8(from, signal), clean, createWriteStream(to), { signal });
  return { skipped, written };
}

/** An empty line is no row, except in a table of one column, where it is an empty cell. */
function isBlank(record: CsvRecord, dialect: CsvDialect): boolean {
  return dialect.width > 1 && record.fields.length === 1 && record.fields[0] === '';
}

function fitRow(
  record: CsvRecord,
  options: { width: number; padShortRows: boolean },
): { fields: readonly string[] } | { problem: string } {
  const { width, padShortRows } = options;
  const { fields, problem } = record;
  if (problem !== undefined) return { problem };
  if (fields.length === width) return { fields };
  if (fields.length < width) {
    if (padShortRows) return { fields: [...fields, ...Array<string>(width - fields.length).fill('')] };
    return { problem: `${fields.length} of ${width} fields` };
  }
  // A delimiter at the end of the line, which some programs write, adds an empty field; DuckDB drops it as well.
  if (fields.slice(width).every((field) => field === '')) return { fields: fields.slice(0, width) };
  return { problem: `${fields.length} fields instead of ${width}` };
}

function encodeField(field: string): string {
  return /[",\n\r]|^\s|\s$/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
}
