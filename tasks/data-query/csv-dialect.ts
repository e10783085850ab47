/**
 * Finds out how a CSV file is written from its beginning: the delimiter that splits the most rows into the same
 * number of fields, and how many lines of notes stand above the table.
 *
 * DuckDB can guess these too, but it may guess an escape character, a comment character or lines to skip as well,
 * and then rows are missing without a word. So the dialect is settled here and DuckDB is told.
 */
import { open } from 'node:fs/promises';
import { createCsvSplitter, type CsvRecord, type CsvSyntax } from './csv-records.ts';
import { dialectSampleBytes, dialectSampleRows } from './limits.ts';

export interface CsvDialect extends CsvSyntax {
  /** Lines above the table: notes, a `sep=;` line. */
  readonly skipLines: number;
  /** Fields of the first row of the table. */
  readonly width: number;
}

export interface DialectWishes {
  readonly delimiter?: string | undefined;
  readonly quote?: string | undefined;
  readonly skipLines?: number | undefined;
  /** The file is called .tsv or .tab. */
  readonly isTabSeparated: boolean;
}

/** @param path a file in UTF-8. */
export async function findCsvDialect(path: string, wishes: DialectWishes): Promise<CsvDialect> {
  const sample = await readSample(path);
  return chooseDialect(sample, wishes);
}

const delimiters = [',', ';', '\t', '|'];

/** The notes above a table are few; a file whose every row has one field is not a table below notes. */
const notesMax = 20;

export function chooseDialect(sample: { text: string; isWhole: boolean }, wishes: DialectWishes): CsvDialect {
  const quote = wishes.quote ?? '"';
  // What Excel writes as its first line to say which delimiter follows.
  const announced = /^sep=(.)\r?\n/i.exec(sample.text)?.[1];
  const asked = wishes.delimiter ?? announced;
  const candidates = asked === undefined ? delimiters : [asked];
  const shapes = candidates.map((delimiter) => measure(sample, { delimiter, quote }));
  const best = shapes.reduce((a, b) => (score(b, wishes) > score(a, wishes) ? b : a));
  const skipLines = wishes.skipLines ?? (announced === undefined ? best.noteLines : 1);
  const first = best.records.find((record) => record.line > skipLines);
  return { delimiter: best.syntax.delimiter, quote, skipLines, width: first?.fields.length ?? 1 };
}

interface Shape {
  readonly syntax: CsvSyntax;
  readonly records: readonly CsvRecord[];
  /** The most common number of fields, and the share of rows that have it. */
  readonly width: number;
  readonly share: number;
  readonly noteLines: number;
}

function measure(sample: { text: string; isWhole: boolean }, syntax: CsvSyntax): Shape {
  const splitter = createCsvSplitter(syntax);
  const whole = splitter.push(sample.text);
  // The last record of a sample that was cut off is likely to be half a record.
  const all = sample.isWhole ? [...whole, ...splitter.end()] : whole;
  const records = all
    .slice(0, dialectSampleRows)
    .filter((record) => record.fields.length > 1 || record.fields[0] !== '');

  const counts = new Map<number, number>();
  for (const record of records) counts.set(record.fields.length, (counts.get(record.fields.length) ?? 0) + 1);
  const [width, rows] = [...counts].reduce(
    (a, b) => (b[1] > a[1] || (b[1] === a[1] && b[0] > a[0]) ? b : a),
    [1, 0],
  );
  const share = records.length === 0 ? 0 : rows / records.length;
  return { syntax, records, width, share, noteLines: width > 1 ? countNoteLines(records) : 0 };
}

/** Lines before the first row with more than one field. */
function countNoteLines(records: readonly CsvRecord[]): number {
  const first = records.slice(0, notesMax + 1).find((record) => record.fields.length > 1);
  return first === undefined ? 0 : first.line - 1;
}

/** Agreement between rows counts most; of two that agree equally, the one that finds more columns. */
function score(shape: Shape, wishes: DialectWishes): number {
  if (shape.width < 2) return 0;
  if (wishes.isTabSeparated && shape.syntax.delimiter === '\t') return Infinity;
  return shape.share * Math.log2(shape.width);
}

async function readSample(path: string): Promise<{ text: string; isWhole: boolean }> {
  const file = await open(path);
  try {
    const buffer = Buffer.alloc(dialectSampleBytes);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    const text = new TextDecoder().decode(buffer.subarray(0, bytesRead));
    return { text, isWhole: bytesRead < buffer.length };
  } finally {
    await file.close();
  }
}
