import type { DuckDBConnection } from '@duckdb/node-api';
import {
  columnsListedMax,
  columnTextMax,
  previewBytesMax,
  previewRowsMax,
  previewTextMax,
} from './limits.ts';
import { readTexts } from './run-sql.ts';
import { safeText } from './safe-text.ts';
import { jsonColumns, resultTable, type QueryResult, type ResultColumn } from './write-result.ts';

/**
 * The first rows of the result, small enough for the JSON of a job: long texts and lists are cut, and there are fewer
 * rows when they are wide.
 */
export async function readPreview(
  connection: DuckDBConnection,
  result: QueryResult,
): Promise<Record<string, unknown>[]> {
  const columns = result.columns.slice(0, columnsListedMax);
  const limit = Math.min(previewRowsMax, result.rows);
  const rows = await readTexts(
    connection,
    `SELECT to_json(line)::VARCHAR FROM (SELECT ${jsonColumns(columns)} FROM ${resultTable} LIMIT ${limit}) AS line`,
  );
  const preview: Record<string, unknown>[] = [];
  let sizeBytes = 0;
  for (const json of rows) {
    const row = shorten(JSON.parse(json));
    sizeBytes += Buffer.byteLength(JSON.stringify(row));
    if (sizeBytes > previewBytesMax) break;
    if (isRecord(row)) preview.push(row);
  }
  return preview;
}

/** Names and types of the columns, the first `columnsListedMax`. */
export function listColumns(columns: readonly ResultColumn[]): { name: string; type: string }[] {
  return columns.slice(0, columnsListedMax).map(({ name, type }) => ({
    name: safeText(name, columnTextMax),
    type: safeText(type.alias ?? type.toString(), columnTextMax),
  }));
}

const itemsMax = 20;
const depthMax = 8;

function shorten(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return safeText(value, previewTextMax);
  if (typeof value !== 'object' || value === null) return value;
  if (depth === depthMax) return '…';
  if (Array.isArray(value)) return value.slice(0, itemsMax).map((item) => shorten(item, depth + 1));
  const entries = Object.entries(value).map(
    ([key, entry]) => [safeText(key, columnTextMax), shorten(entry, depth + 1)] as const,
  );
  return Object.fromEntries(entries);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
