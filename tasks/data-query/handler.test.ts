import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import type { z } from 'zod';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { runTask, testFile } from '#shared/tasks/testing.ts';
import handler from './handler.ts';
import { task } from './task.ts';

type Input = z.input<(typeof task)['input']>;

/** Queries one file and gives the result with the text of the result file. */
async function query(
  content: string | Buffer,
  sql = 'FROM data',
  options: Omit<Input, 'file' | 'files' | 'sql'> & { name?: string; signal?: AbortSignal } = {},
) {
  const { name = 'people.csv', signal, ...input } = options;
  const file = testFile(Buffer.from(content), { name });
  const run = await runTask({
    definition: task,
    handler,
    input: { ...input, file: file.id, sql },
    files: [file],
    ...(signal && { signal }),
  });
  const [table] = run.result.tables;
  if (table === undefined) throw new Error('The result names no table.');
  return { ...run.result, table, text: run.output(run.result.file).bytes.toString() };
}

const people = 'id,name\n1,Ada\n2,Bo\n3,Cy\n';

describe('data.query', () => {
  it('answers a question about a file, with the rows in a file and a preview', async () => {
    const result = await query(people, 'SELECT count(*) AS n, max(name) AS last FROM data;');
    expect(result).toMatchObject({
      rows: 1,
      isTruncated: false,
      columnCount: 2,
      columns: [
        { name: 'n', type: 'BIGINT' },
        { name: 'last', type: 'VARCHAR' },
      ],
      preview: [{ n: 3, last: 'Cy' }],
      sizeBytes: 12,
      skippedRows: 0,
      text: 'n,last\n3,Cy\n',
      table: { name: 'data', file: 'people.csv', format: 'csv', rows: 3, encoding: 'utf-8', delimiter: ',' },
    });
  });

  it('joins several files under the names that were asked for', async () => {
    const first = testFile(Buffer.from(people), { name: 'people.csv' });
    const second = testFile(Buffer.from('{"person":1,"pet":"cat"}\n{"person":3,"pet":"dog"}\n'), {
      name: 'pets.ndjson',
    });
    const sql = 'SELECT name, pet FROM people JOIN pets ON id = person ORDER BY id';
    const run = await runTask({
      definition: task,
      handler,
      input: { files: [first.id, second.id], tables: ['people', 'pets'], sql },
      files: [first, second],
    });
    expect(run.result.preview).toEqual([
      { name: 'Ada', pet: 'cat' },
      { name: 'Cy', pet: 'dog' },
    ]);
  });

  it('calls several files data1, data2 … by default', async () => {
    const files = [testFile(Buffer.from('a\n1\n')), testFile(Buffer.from('a\n2\n'))];
    const input = { files: files.map(({ id }) => id), sql: 'FROM data1 UNION ALL FROM data2' };
    const run = await runTask({ definition: task, handler, input, files });
    expect(run.result.preview).toEqual([{ a: 1 }, { a: 2 }]);
  });

  it('reads the Parquet it wrote', async () => {
    const file = testFile(Buffer.from(people));
    const sql = 'SELECT *, [id, id] AS pair FROM data';
    const written = await runTask({
      definition: task,
      handler,
      input: { file: file.id, sql, format: 'parquet' },
      files: [file],
    });
    const parquet = written.output(written.result.file).bytes;
    const result = await query(parquet, 'SELECT sum(id) AS total, max(pair) AS pair FROM data', {
      name: 'x',
    });
    expect(result).toMatchObject({
      preview: [{ total: 6, pair: [3, 3] }],
      table: { format: 'parquet', rows: 3 },
    });
  });

  it.each([
    'DESCRIBE data',
    'SUMMARIZE data',
    "VALUES (1, 'x')",
    'WITH x AS (FROM data) FROM x -- done;',
    'TABLE data',
  ])('runs %s', async (sql) => {
    expect((await query(people, sql)).rows).toBeGreaterThan(0);
  });

  it('groups 200,000 rows', async () => {
    const lines = Array.from(
      { length: 200_000 },
      (_, index) => `${index},customer ${index % 5_000},${index % 97}.5`,
    );
    const sql =
      'SELECT customer, sum(amount) AS total FROM data GROUP BY ALL ORDER BY total DESC, customer LIMIT 1';
    const result = await query(`id,customer,amount\n${lines.join('\n')}\n`, sql);
    expect(result.preview).toEqual([{ customer: 'customer 1036', total: 2096 }]);
    expect(result.table.rows).toBe(200_000);
  });

  it('cuts the result at rowsMax and says so', async () => {
    const result = await query(people, 'SELECT id FROM data ORDER BY id DESC', { rowsMax: 2 });
    expect(result).toMatchObject({ rows: 2, isTruncated: true, text: 'id\n3\n2\n' });
    expect(await query(people, 'SELECT id FROM data', { rowsMax: 3 })).toMatchObject({
      rows: 3,
      isTruncated: false,
    });
  });

  it('writes JSON that every parser takes, and the same values into the preview', async () => {
    const sql = `SELECT 9007199254740993::BIGINT AS big, 7::BIGINT AS small, 1.10::DECIMAL(10, 2) AS price,
      DATE '2024-02-29' AS day, TIMESTAMPTZ '2024-01-01 10:00:00+02' AS moment, 'nan'::DOUBLE AS hole,
      {'list': [1.5::DOUBLE, '-infinity'::DOUBLE, NULL], 'text': 'a"b'} AS nested, MAP {'k': 'inf'::DOUBLE} AS dict,
      NULL::DOUBLE AS nothing, 170141183460469231731687303715884105727 AS huge`;
    const expected = {
      big: '9007199254740993',
      small: 7,
      price: '1.10',
      day: '2024-02-29',
      moment: '2024-01-01 08:00:00+00',
      hole: 'NaN',
      nested: { list: [1.5, '-Infinity', null], text: 'a"b' },
      dict: { k: 'Infinity' },
      nothing: null,
      huge: '170141183460469231731687303715884105727',
    };
    const json = await query(people, sql, { format: 'json' });
    expect(JSON.parse(json.text)).toEqual([expected]);
    expect(json.preview).toEqual([expected]);
    const ndjson = await query(people, sql, { format: 'ndjson' });
    expect(
      ndjson.text
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as unknown),
    ).toEqual([expected]);
  });

  it('keeps the preview small and storable whatever the data is', async () => {
    const sql = `SELECT range AS id, repeat('ü', 1000) || chr(0) AS long, 'a' || chr(0) AS zero FROM range(100)`;
    const { preview } = await query(people, sql);
    expect(preview).toHaveLength(20);
    expect(preview[0]).toEqual({ id: 0, long: `${'ü'.repeat(200)}…`, zero: 'a\uFFFD' });

    const columns = Array.from({ length: 1000 }, (_, index) => `repeat('x', 500) AS column${index}`).join(
      ', ',
    );
    const wide = await query(people, `SELECT ${columns} FROM range(30)`);
    expect(wide.columnCount).toBe(1000);
    expect(Buffer.byteLength(JSON.stringify({ ...wide, text: '' }))).toBeLessThan(200_000);
  });

  it('keeps the columns of a result apart when the query names two alike', async () => {
    expect((await query(people, 'SELECT 1 AS a, 2 AS a, 3 AS A')).preview).toEqual([
      { a: 1, a_1: 2, A_2: 3 },
    ]);
  });

  it("answers wrong SQL with DuckDB's message and its place in the text", async () => {
    await expect(query(people, 'SELECT id,\n  nmae FROM data')).rejects.toThrow(
      /^The SQL is wrong: Binder Error: Referenced column "nmae" not found[^]*LINE 2: {3}nmae FROM data\n {10}\^$/,
    );
    await expect(query(people, 'SELEC 1')).rejects.toThrow('Parser Error: syntax error at or near "SELEC"');
    await expect(query(people, 'SELECT 1,\nCAST(name AS INTEGER) FROM data')).rejects.toThrow(
      /^The query failed: Conversion Error: Could not convert string 'Ada'[^]*LINE 2: CAST/,
    );
    await expect(query(people, 'FROM persons')).rejects.toThrow(
      'a query reads the files of its job, as data ("people.csv")',
    );
    await expect(query(people, 'FROM persons')).rejects.toBeInstanceOf(InvalidInputError);
  });

  it('stops when the job is cancelled', async () => {
    const abort = new AbortController();
    const file = testFile(Buffer.from(people));
    const endless =
      'SELECT count(*) FROM range(10000000000) a, range(10000000000) b WHERE a.range % 7 = b.range % 3';
    const running = runTask({
      definition: task,
      handler,
      input: { file: file.id, sql: endless },
      files: [file],
      signal: abort.signal,
      // In the next turn, when the statement runs or is about to.
      onProgress: (_, message) =>
        message === 'querying' && setTimeout(() => abort.abort(new Error('cancelled')), 50),
    });
    await expect(running).rejects.toThrow('cancelled');
  });

  it('takes one file or several, not both and not none', () => {
    const [file, sql] = ['0199d7a3-1f5c-7cc0-8000-000000000000', 'FROM data'];
    expect(task.input.safeParse({ sql }).success).toBe(false);
    expect(task.input.safeParse({ sql, file, files: [file] }).success).toBe(false);
    expect(task.input.safeParse({ sql, files: [file, file], tables: ['a'] }).success).toBe(false);
    expect(task.input.safeParse({ sql, files: [file, file], tables: ['a', 'A'] }).success).toBe(false);
    expect(task.input.safeParse({ sql, file, tables: ['x; DROP'] }).success).toBe(false);
    expect(task.input.safeParse({ sql, file, csv: { encoding: 'klingon' } }).success).toBe(false);
    expect(task.input.safeParse({ sql, file, csv: { encoding: 'shift_jis' } }).success).toBe(true);
  });

  it('reads the messy example of the documentation', async () => {
    const bytes = await readFile(new URL('../../examples/data/orders.csv', import.meta.url));
    const sql =
      'SELECT country, count(*) AS orders, sum(amount) AS total FROM data GROUP BY country ORDER BY country';
    const result = await query(bytes, sql, { name: 'orders.csv', csv: { decimalSeparator: ',' } });
    expect(result.text).toMatchInlineSnapshot(`
      "Country,orders,total
      DE,3,205.0
      FR,2,76.75
      GB,1,310.0
      IE,1,48.0
      JP,1,99.95
      PL,1,64.4
      "
    `);
    expect(result.table).toMatchInlineSnapshot(`
      {
        "delimiter": ";",
        "encoding": "utf-8",
        "file": "orders.csv",
        "format": "csv",
        "name": "data",
        "rows": 9,
        "skippedExamples": [
          {
            "line": 9,
            "reason": "8 fields instead of 7",
            "text": "1005;Smith; Jones;GB;12,00;the semicolon belongs to the name;;rush",
          },
          {
            "line": 11,
            "reason": "2 of 7 fields",
            "text": "1007;Åkesson",
          },
          {
            "line": 12,
            "reason": "a quote is opened and never closed",
            "text": "1008;"never closed;SE;20,00;;;",
          },
        ],
        "skippedLines": 2,
        "skippedRows": 3,
      }
    `);
  });
});
