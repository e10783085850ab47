/**
 * Runs the caller's statement once and writes its rows. The rows never pass through JavaScript: they go to a
 * temporary table, which spills to disk, and from there to the file; only the preview is read.
 */
import { type DuckDBConnection, type DuckDBType } from '@duckdb/node-api';
import { stat } from 'node:fs/promises';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import type { CheckedStatement } from './check-statement.ts';
import { explainDuckdbError, shiftLineNumber } from './duckdb-errors.ts';
import { jsonSafe } from './json-safe.ts';
import { resultBytesMax, resultWatchMs } from './limits.ts';
import { countRows, interruptible } from './run-sql.ts';
import { quoteName, quoteText } from './sql-text.ts';

export type ResultFormat = 'csv' | 'json' | 'ndjson' | 'parquet';

export interface ResultColumn {
  readonly name: string;
  readonly type: DuckDBType;
}

export interface QueryResult {
  readonly rows: number;
  readonly isTruncated: boolean;
  readonly columns: readonly ResultColumn[];
}

/** Where the rows wait to be written; in its own schema, whatever the caller's tables are called. */
export const resultTable = 'temp.windlass_result';

/**
 * Runs the statement and keeps at most `rowsMax` of its rows in `resultTable`.
 * @throws InvalidInputError with DuckDB's message and the line in the caller's text.
 */
export async function runStatement(
  connection: DuckDBConnection,
  statement: CheckedStatement,
  options: { rowsMax: number; signal: AbortSignal },
): Promise<QueryResult> {
  const { rowsMax, signal } = options;
  // The statement stands on lines of its own: it may end in a comment. One row more tells whether there are more.
  const sql = `CREATE TEMP TABLE ${resultTable} AS FROM (\n${statement.sql}\n) LIMIT ${rowsMax + 1}`;
  try {
    await interruptible(connection, signal, () => connection.run(sql));
  } catch (err) {
    signal.throwIfAborted();
    throw explainDuckdbError(err, {
      about: 'The query failed',
      edit: (message) => shiftLineNumber(message, 1),
    });
  }
  const found = await countRows(connection, resultTable);
  const empty = await connection.run(`FROM ${resultTable} LIMIT 0`);
  const types = empty.columnTypes();
  const columns = empty.columnNames().map((name, index) => ({ name, type: typeAt(types, index) }));
  return { rows: Math.min(found, rowsMax), isTruncated: found > rowsMax, columns };
}

/**
 * Writes the rows of `runStatement` to `path`.
 * @returns the size of the file in bytes.
 * @throws InvalidInputError when it would be larger than `resultBytesMax`.
 */
export async function writeResult(
  connection: DuckDBConnection,
  result: QueryResult,
  options: { path: string; format: ResultFormat; sizeBytesMax?: number; signal: AbortSignal },
): Promise<number> {
  const { path, format, sizeBytesMax = resultBytesMax, signal } = options;
  const isJson = format === 'json' || format === 'ndjson';
  const rows = `SELECT ${isJson ? jsonColumns(result.columns) : '*'} FROM ${resultTable} LIMIT ${result.rows}`;
  const sql = `COPY (${rows}) TO ${quoteText(path)} (${copyOptions[format]}, USE_TMP_FILE false)`;

  const tooLarge = new AbortController();
  const watch = setInterval(() => {
    void abortAbove(sizeBytesMax, path, tooLarge);
  }, resultWatchMs);
  try {
    await interruptible(connection, AbortSignal.any([signal, tooLarge.signal]), () => connection.run(sql));
  } catch (err) {
    signal.throwIfAborted();
    throw explainDuckdbError(err, { about: 'The result cannot be written' });
  } finally {
    clearInterval(watch);
  }
  const sizeBytes = await sizeOf(path);
  if (sizeBytes > sizeBytesMax) throw refuseSize(sizeBytesMax);
  return sizeBytes;
}

/** The columns of the result as JSON can hold them, under their own names. */
export function jsonColumns(columns: readonly ResultColumn[]): string {
  return columns
    .map(({ name, type }) => `${jsonSafe(type, quoteName(name))} AS ${quoteName(name)}`)
    .join(', ');
}

const copyOptions: Readonly<Record<ResultFormat, string>> = {
  csv: 'FORMAT csv, HEADER true',
  json: 'FORMAT json, ARRAY true',
  ndjson: 'FORMAT json',
  parquet: 'FORMAT parquet, COMPRESSION zstd',
};

function typeAt(types: readonly DuckDBType[], index: number): DuckDBType {
  const type = types[index];
  if (type === undefined) throw new Error(`DuckDB named column ${index} and gave it no type.`);
  return type;
}

async function abortAbove(sizeBytesMax: number, path: string, tooLarge: AbortController): Promise<void> {
  if ((await sizeOf(path)) > sizeBytesMax) tooLarge.abort(refuseSize(sizeBytesMax));
}

function refuseSize(sizeBytesMax: number): InvalidInputError {
  return new InvalidInputError(
    `The result is larger than ${sizeBytesMax} bytes. Aggregate, select fewer columns, lower rowsMax, or write parquet.`,
  );
}

async function sizeOf(path: string): Promise<number> {
  return await stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}
