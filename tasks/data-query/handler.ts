import { InvalidInputError, type HandlerOf } from '#shared/tasks/define-task.ts';
import { checkStatement } from './check-statement.ts';
import { openForLoading, openForQuery } from './database.ts';
import { loadTable, type LoadedTable } from './load-table.ts';
import { listColumns, readPreview } from './preview.ts';
import type { task } from './task.ts';
import { runStatement, writeResult, type ResultFormat } from './write-result.ts';

export default (async (input, ctx) => {
  const files = (input.files ?? (input.file === undefined ? [] : [input.file])).map((id) => ctx.file(id));
  if (files.length === 0) throw new InvalidInputError('There is no file to query.');
  const { scratchDir, signal } = ctx;

  const tables: LoadedTable[] = [];
  {
    await using database = await openForLoading(scratchDir);
    for (const [index, file] of files.entries()) {
      ctx.progress(Math.round((index / files.length) * 50), `loading ${file.name}`);
      const name = input.tables?.[index] ?? (files.length === 1 ? 'data' : `data${index + 1}`);
      const table = await loadTable(database.connection, file, {
        name,
        format: input.inputFormat,
        csv: input.csv,
        scratchDir,
        signal,
      });
      tables.push(table);
      if (table.skippedRows > 0)
        ctx.log(`${table.file}: skipped ${table.skippedRows} rows that cannot be read`);
    }
  }

  const { extension, mediaType } = formats[input.format];
  const output = ctx.output(`result.${extension}`, { mediaType });
  const parquet = files.filter((_, index) => tables[index]?.format === 'parquet').map((file) => file.path);
  await using database = await openForQuery(scratchDir, [...parquet, output.path]);
  const { connection } = database;
  ctx.progress(50, 'querying');
  const statement = await checkStatement(connection, input.sql, tables);
  const result = await runStatement(connection, statement, { rowsMax: input.rowsMax, signal });
  ctx.progress(80, 'writing');
  const sizeBytes = await writeResult(connection, result, {
    path: output.path,
    format: input.format,
    signal,
  });
  ctx.progress(100, `${result.rows} rows`);
  return {
    file: output.id,
    rows: result.rows,
    isTruncated: result.isTruncated,
    columnCount: result.columns.length,
    columns: listColumns(result.columns),
    preview: await readPreview(connection, result),
    sizeBytes,
    skippedRows: tables.reduce((sum, table) => sum + table.skippedRows, 0),
    tables: tables.map(({ skippedExamples, ...table }) => ({
      ...table,
      skippedExamples: [...skippedExamples],
    })),
  };
}) satisfies HandlerOf<typeof task>;

const formats: Readonly<Record<ResultFormat, { extension: string; mediaType: string }>> = {
  csv: { extension: 'csv', mediaType: 'text/csv; charset=utf-8' },
  json: { extension: 'json', mediaType: 'application/json' },
  ndjson: { extension: 'ndjson', mediaType: 'application/x-ndjson' },
  parquet: { extension: 'parquet', mediaType: 'application/vnd.apache.parquet' },
};
