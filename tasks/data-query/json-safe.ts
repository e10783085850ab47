/**
 * SQL that turns a value into one that JSON can hold. DuckDB by itself writes `NaN` and `Infinity`, which no JSON
 * parser takes, and integers of 128 bits, which most parsers round in silence.
 *
 * - Integers beyond ±(2^53 − 1) become strings, the others stay numbers.
 * - Decimals become strings: their digits are their meaning.
 * - NaN and the infinities become the strings "NaN", "Infinity" and "-Infinity".
 * - Lists, structs and maps are gone into; all else is left to DuckDB (dates become strings, blobs escaped text).
 */
import {
  DuckDBArrayType,
  DuckDBListType,
  DuckDBMapType,
  DuckDBStructType,
  DuckDBTypeId,
  type DuckDBType,
} from '@duckdb/node-api';
import { quoteName } from './sql-text.ts';

/** @param value SQL of the value; it may be repeated in the answer. */
export function jsonSafe(type: DuckDBType, value: string): string {
  return rewrite(type, value, 0) ?? value;
}

/** The rewritten value, or undefined when the type needs no rewriting. */
function rewrite(type: DuckDBType, value: string, depth: number): string | undefined {
  if (wideIntegers.has(type.typeId)) {
    return `CASE WHEN ${value} BETWEEN -9007199254740991 AND 9007199254740991 THEN to_json(${value}) ELSE to_json(${value}::VARCHAR) END`;
  }
  if (type.typeId === DuckDBTypeId.FLOAT || type.typeId === DuckDBTypeId.DOUBLE) {
    return `CASE WHEN ${value} IS NULL OR isfinite(${value}) THEN to_json(${value}) WHEN isnan(${value}) THEN '"NaN"'::JSON WHEN ${value} > 0 THEN '"Infinity"'::JSON ELSE '"-Infinity"'::JSON END`;
  }
  if (type.typeId === DuckDBTypeId.DECIMAL) return `${value}::VARCHAR`;
  if (type instanceof DuckDBListType || type instanceof DuckDBArrayType) {
    return rewriteItems(type.valueType, value, depth);
  }
  if (type instanceof DuckDBStructType) return rewriteStruct(type, value, depth);
  if (type instanceof DuckDBMapType) {
    const values = rewriteItems(type.valueType, `map_values(${value})`, depth);
    return values === undefined ? undefined : `map(map_keys(${value}), ${values})`;
  }
  return undefined;
}

const wideIntegers: ReadonlySet<DuckDBTypeId> = new Set([
  DuckDBTypeId.BIGINT,
  DuckDBTypeId.UBIGINT,
  DuckDBTypeId.HUGEINT,
  DuckDBTypeId.UHUGEINT,
]);

function rewriteItems(type: DuckDBType, list: string, depth: number): string | undefined {
  const item = `item${depth}`;
  const rewritten = rewrite(type, item, depth + 1);
  return rewritten === undefined ? undefined : `list_transform(${list}, lambda ${item}: ${rewritten})`;
}

function rewriteStruct(type: DuckDBStructType, value: string, depth: number): string | undefined {
  let isChanged = false;
  const entries = type.entryNames.map((name, index) => {
    const entry = `(${value}).${quoteName(name)}`;
    const entryType = type.entryTypes[index];
    const rewritten = entryType === undefined ? undefined : rewrite(entryType, entry, depth);
    isChanged ||= rewritten !== undefined;
    return `${quoteName(name)} := ${rewritten ?? entry}`;
  });
  if (!isChanged) return undefined;
  return `CASE WHEN ${value} IS NULL THEN NULL ELSE struct_pack(${entries.join(', ')}) END`;
}
