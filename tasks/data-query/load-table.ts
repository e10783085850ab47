/** Loads one uploaded file as a table, and says what became of it. */
import type { DuckDBConnection } from '@duckdb/node-api';
import { join } from 'node:path';
import type { z } from 'zod';
import { InvalidInputError, type InputFile } from '#shared/tasks/define-task.ts';
import { cleanCsv } from './clean-csv.ts';
import { cleanNdjson } from './clean-ndjson.ts';
import { findCsvDialect, type CsvDialect } from './csv-dialect.ts';
import { aboutFile, explainDuckdbError } from './duckdb-errors.ts';
import { findFileFormat, type FileFormat } from './file-format.ts';
import { jsonDepthMax } from './limits.ts';
import { countRows, interruptible } from './run-sql.ts';
import { safeText } from './safe-text.ts';
import type { SkippedRow, SkippedRows } from './skipped-rows.ts';
import { quoteList, quoteName, quoteText } from './sql-text.ts';
import type { task } from './task.ts';
import { toUtf8 } from './text-encoding.ts';

type CsvOptions = z.output<(typeof task)['input']>['csv'];

export interface LoadedTable {
  readonly name: string;
  readonly file: string;
  readonly format: FileFormat;
  readonly rows: number;
  readonly skippedRows: number;
  readonly skippedExamples: readonly SkippedRow[];
  readonly encoding?: string;
  readonly delimiter?: string;
  readonly skippedLines?: number;
}

export interface LoadOptions {
  readonly name: string;
  readonly format: FileFormat | undefined;
  readonly csv: CsvOptions;
  readonly scratchDir: string;
  readonly signal: AbortSignal;
}

/** @throws InvalidInputError when the file is empty or cannot be read as a table. */
export async function loadTable(
  connection: DuckDBConnection,
  file: InputFile,
  options: LoadOptions,
): Promise<LoadedTable> {
  const found = await findFileFormat(file.path, file.name);
  if (found === undefined) throw new InvalidInputError(`"${file.name}" is empty.`);
  const format = options.format ?? found;
  const job = { connection, file, options };
  const loaded = await loaders[format](job);
  return {
    name: options.name,
    file: safeText(file.name, 255),
    format,
    rows: await countRows(connection, quoteName(options.name)),
    skippedRows: 0,
    skippedExamples: [],
    ...loaded,
  };
}

interface Loading {
  readonly connection: DuckDBConnection;
  readonly file: InputFile;
  readonly options: LoadOptions;
}

type Findings = Partial<LoadedTable>;

const loaders: Readonly<Record<FileFormat, (job: Loading) => Promise<Findings>>> = {
  csv: loadCsv,
  json: loadJson,
  parquet: loadParquet,
};

/**
 * A well-formed file is read by DuckDB where it lies. If DuckDB finds anything wrong with it, a cleaned copy is made,
 * without the rows that cannot be used.
 */
async function loadCsv(job: Loading): Promise<Findings> {
  const { file, options } = job;
  const { csv, signal } = options;
  const text = await prepareText(job);
  const dialect = await findCsvDialect(text.path, {
    delimiter: csv.delimiter,
    quote: csv.quote,
    skipLines: csv.skipLines,
    isTabSeparated: /\.(tsv|tab)$/i.test(file.name),
  });
  const findings = {
    encoding: text.encoding,
    delimiter: dialect.delimiter,
    ...(dialect.skipLines > 0 && { skippedLines: dialect.skipLines }),
  };
  try {
    await createTable(job, readCsv(text.path, dialect, csv));
    return findings;
  } catch (err) {
    if (!isAboutData(err)) throw err;
  }
  const cleanPath = join(options.scratchDir, `${options.name}.clean.csv`);
  const { skipped, written } = await cleanCsv(text.path, cleanPath, {
    dialect,
    padShortRows: csv.padShortRows,
    signal,
  });
  refuseNothingLeft(file, skipped, written - (csv.header ? 1 : 0));
  await createTable(job, readCsv(cleanPath, cleanSyntax, csv));
  return { ...findings, skippedRows: skipped.count, skippedExamples: skipped.examples };
}

/** How clean-csv.ts writes. */
const cleanSyntax = { delimiter: ',', quote: '"', skipLines: 0 };

/**
 * DuckDB is told all of the syntax and only finds out the types, from all rows: types guessed from the first ones would
 * make a late "N/A" in a column of numbers a broken row.
 */
function readCsv(path: string, syntax: Omit<CsvDialect, 'width'>, csv: CsvOptions): string {
  const settings = [
    `header = ${csv.header}`,
    `delim = ${quoteText(syntax.delimiter)}`,
    `quote = ${quoteText(syntax.quote)}`,
    `escape = ${quoteText(syntax.quote)}`,
    `skip = ${syntax.skipLines}`,
    "comment = ''",
    'sample_size = -1',
    'strict_mode = true',
    'null_padding = false',
    'ignore_errors = false',
    `all_varchar = ${csv.isAllText}`,
    `decimal_separator = ${quoteText(csv.decimalSeparator)}`,
    `nullstr = ${quoteList(['', ...csv.nullValues])}`,
  ];
  return `read_csv(${quoteText(path)}, ${settings.join(', ')})`;
}

/** JSON of any shape: an array of objects, one object, or one on each line. Only the last can be read in part. */
async function loadJson(job: Loading): Promise<Findings> {
  const { file, options } = job;
  const text = await prepareText(job);
  const findings = { encoding: text.encoding };
  const problem = await createTable(job, readJson(text.path)).then(
    () => undefined,
    (err: unknown) => {
      if (isAboutData(err)) return err;
      throw err;
    },
  );
  if (problem === undefined) return findings;
  const cleanPath = join(options.scratchDir, `${options.name}.clean.ndjson`);
  const { skipped, written } = await cleanNdjson(text.path, cleanPath, { signal: options.signal });
  // One document that is broken somewhere has hardly a line that is JSON by itself.
  if (written <= skipped.count) throw problem;
  refuseNothingLeft(file, skipped, written);
  await createTable(job, readJson(cleanPath));
  return { ...findings, skippedRows: skipped.count, skippedExamples: skipped.examples };
}

function readJson(path: string): string {
  return `read_json(${quoteText(path)}, sample_size = -1, maximum_depth = ${jsonDepthMax})`;
}

/** Parquet is read in place, only the columns and row groups that the query needs. */
async function loadParquet({ connection, file, options }: Loading): Promise<Findings> {
  await run(
    { connection, file, options },
    `CREATE VIEW ${quoteName(options.name)} AS FROM read_parquet(${quoteText(file.path)})`,
  );
  return {};
}

async function createTable(job: Loading, source: string): Promise<void> {
  await run(job, `CREATE TABLE ${quoteName(job.options.name)} AS FROM ${source}`);
}

async function run({ connection, file, options }: Loading, sql: string): Promise<void> {
  try {
    await interruptible(connection, options.signal, () => connection.run(sql));
  } catch (err) {
    options.signal.throwIfAborted();
    throw explainDuckdbError(err, {
      about: `"${file.name}" cannot be read`,
      edit: (message) => aboutFile(message, file),
    });
  }
}

async function prepareText({ file, options }: Loading): Promise<{ path: string; encoding: string }> {
  return await toUtf8(file.path, {
    declared: options.csv.encoding,
    name: file.name,
    scratchPath: join(options.scratchDir, `${options.name}.utf8`),
    signal: options.signal,
  });
}

function isAboutData(err: unknown): boolean {
  return err instanceof InvalidInputError;
}

function refuseNothingLeft(file: InputFile, skipped: SkippedRows, rows: number): void {
  if (rows > 0 || skipped.count === 0) return;
  const [example] = skipped.examples;
  const why = example === undefined ? '' : ` Line ${example.line}: ${example.reason}.`;
  throw new InvalidInputError(
    `No row of "${file.name}" can be read.${why} Check the delimiter and the quote character.`,
  );
}
