import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { z } from 'zod';
import { openForLoading } from './database.ts';
import { loadTable, type LoadedTable } from './load-table.ts';
import { task } from './task.ts';

type CsvOptions = z.input<(typeof task)['input']>['csv'];

/** Loads a file and gives what was found out about it, with its columns and rows. */
async function load(
  content: string | Buffer,
  options: { name?: string; csv?: CsvOptions } = {},
): Promise<LoadedTable & { columns: string[]; values: unknown[] }> {
  const dir = await mkdtemp(join(tmpdir(), 'windlass-load-'));
  try {
    const path = join(dir, 'input');
    await writeFile(path, content);
    await using database = await openForLoading(dir);
    const { csv } = task.input.parse({
      sql: 'x',
      file: '0199d7a3-1f5c-7cc0-8000-000000000000',
      csv: options.csv ?? {},
    });
    const file = {
      id: '',
      path,
      name: options.name ?? 'x.csv',
      mediaType: 'text/plain',
      sizeBytes: 0,
      sha256: '',
    };
    const { signal } = new AbortController();
    const table = await loadTable(database.connection, file, {
      name: 'data',
      format: undefined,
      csv,
      scratchDir: dir,
      signal,
    });
    const reader = await database.connection.runAndReadAll('FROM data');
    const types = reader.columnTypes();
    const columns = reader.columnNames().map((name, index) => `${name} ${types[index]?.toString()}`);
    return { ...table, columns, values: reader.getRowsJson() };
  } finally {
    await rm(dir, { recursive: true });
  }
}

describe('loadTable: CSV', () => {
  it.each([
    ['UTF-8 with a byte order mark', Buffer.from('\uFEFFid;name\r\n1;Zoë\r\n'), 'utf-8'],
    ['UTF-16 with a byte order mark', Buffer.from('\uFEFFid;name\r\n1;Zoë\r\n', 'utf16le'), 'utf-16le'],
    ['UTF-16 without one', Buffer.from('id;name\r\n1;Zoë\r\n', 'utf16le'), 'utf-16le'],
    ['big-endian UTF-16', Buffer.from('\uFEFFid;name\r\n1;Zoë\r\n', 'utf16le').swap16(), 'utf-16be'],
    ['Latin-1', Buffer.from('id;name\r\n1;Zoë\r\n', 'latin1'), 'windows-1252'],
  ])('reads %s', async (_, bytes, encoding) => {
    expect(await load(bytes)).toMatchObject({
      columns: ['id BIGINT', 'name VARCHAR'],
      values: [['1', 'Zoë']],
      encoding,
      skippedRows: 0,
    });
  });

  it('keeps UTF-8 when a few bytes of it are broken', async () => {
    const bytes = Buffer.concat([
      Buffer.from('name\nMüller\nGröße\nÅke '),
      Buffer.from([0xff]),
      Buffer.from('\n'),
    ]);
    expect(await load(bytes)).toMatchObject({
      encoding: 'utf-8',
      values: [['Müller'], ['Größe'], ['Åke \uFFFD']],
    });
  });

  it('takes a character that lies across two reads of the file for whole', async () => {
    const name = `${'x'.repeat((1 << 18) - 'name\n'.length - 1)}ü`;
    const table = await load(`name\n${name}\n`);
    expect(table).toMatchObject({ encoding: 'utf-8', values: [[name]] });
  });

  it('uses the encoding that is named', async () => {
    const japanese = Buffer.from([0x6e, 0x0a, 0x93, 0xfa, 0x96, 0x7b, 0x0a]);
    expect((await load(japanese, { csv: { encoding: 'shift_jis' } })).values).toEqual([['日本']]);
    const utf16 = Buffer.from('日本\n'.repeat(20), 'utf16le');
    expect(await load(utf16, { csv: { encoding: 'utf-16' } })).toMatchObject({
      encoding: 'utf-16le',
      rows: 19,
    });
  });

  it('skips rows with too few or too many fields, and says which', async () => {
    const table = await load('id,name,n\n1,a,10\n2,b\n3,c,30,x\n4,d,40,\n\n5,e,50\n');
    expect(table).toMatchObject({
      values: [
        ['1', 'a', '10'],
        ['4', 'd', '40'],
        ['5', 'e', '50'],
      ],
      columns: ['id BIGINT', 'name VARCHAR', 'n BIGINT'],
      rows: 3,
      skippedRows: 2,
      skippedExamples: [
        { line: 3, reason: '2 of 3 fields', text: '2,b' },
        { line: 4, reason: '4 fields instead of 3', text: '3,c,30,x' },
      ],
    });
  });

  it('counts every skipped row and describes the first few', async () => {
    const table = await load(`a,b\n1,2\n${'x\n'.repeat(1000)}`);
    expect(table).toMatchObject({ rows: 1, skippedRows: 1000 });
    expect(table.skippedExamples).toHaveLength(5);
  });

  it('counts lines in the uploaded file, notes and quoted line ends included', async () => {
    const table = await load('Report of May\n\nid,name\n1,"two\nlines"\n2\n');
    expect(table).toMatchObject({ values: [['1', 'two\nlines']], skippedLines: 2 });
    expect(table.skippedExamples).toEqual([{ line: 6, reason: '1 of 2 fields', text: '2' }]);
  });

  it('fills up short rows when asked to', async () => {
    const table = await load('a,b\n1\n2,3\n', { csv: { padShortRows: true } });
    expect(table).toMatchObject({
      values: [
        ['1', null],
        ['2', '3'],
      ],
      skippedRows: 0,
    });
  });

  it('keeps thousands separators, leading zeros and mixed columns as text', async () => {
    const table = await load('amount,zip,late\n"1,234",00123,1\n"5,000",01000,N/A\n');
    expect(table.columns).toEqual(['amount VARCHAR', 'zip VARCHAR', 'late VARCHAR']);
    expect(table.values).toEqual([
      ['1,234', '00123', '1'],
      ['5,000', '01000', 'N/A'],
    ]);
  });

  it('finds a text in a column of numbers however late it comes', async () => {
    const lines = Array.from({ length: 50_000 }, (_, index) => String(index));
    const table = await load(`n\n${lines.join('\n')}\nN/A\n`);
    expect(table).toMatchObject({ columns: ['n VARCHAR'], rows: 50_001, skippedRows: 0 });
  });

  it('names columns without a name, and tells those with the same name apart', async () => {
    const table = await load('id,,name,name,\n1,a,b,c,d\n');
    expect(table.columns).toEqual([
      'id BIGINT',
      'column1 VARCHAR',
      'name VARCHAR',
      'name_1 VARCHAR',
      'column4 VARCHAR',
    ]);
  });

  it('reads 200 columns', async () => {
    const numbers = Array.from({ length: 200 }, (_, index) => index);
    const table = await load(`${numbers.map((n) => `c${n}`).join(',')}\n${numbers.join(',')}\n`);
    expect(table.values).toEqual([numbers.map(String)]);
  });

  it('obeys its options', async () => {
    expect((await load('1,2\n', { csv: { header: false } })).columns).toEqual([
      'column0 BIGINT',
      'column1 BIGINT',
    ]);
    expect((await load('a\n1\n', { csv: { isAllText: true } })).columns).toEqual(['a VARCHAR']);
    expect((await load('a;b\n1,5;2\n', { csv: { decimalSeparator: ',' } })).columns).toEqual([
      'a DOUBLE',
      'b BIGINT',
    ]);
    expect((await load('a,b\n-,1\n2,3\n', { csv: { nullValues: ['-'] } })).columns).toEqual([
      'a BIGINT',
      'b BIGINT',
    ]);
    expect((await load("a,b\n'x,y',1\n", { csv: { quote: "'" } })).values).toEqual([['x,y', '1']]);
    expect((await load('x\na,b\n1,2\n', { csv: { skipLines: 1 } })).columns).toEqual([
      'a BIGINT',
      'b BIGINT',
    ]);
    expect((await load('a:b\n1:2\n', { csv: { delimiter: ':' } })).columns).toEqual(['a BIGINT', 'b BIGINT']);
    expect((await load('a\tb\n1,2\t3\n', { name: 'x.tsv' })).columns).toEqual(['a VARCHAR', 'b BIGINT']);
  });

  it('makes a table without rows from a header alone', async () => {
    expect(await load('a,b\n')).toMatchObject({ rows: 0, columns: ['a VARCHAR', 'b VARCHAR'] });
  });

  it.each([
    ['an empty file', '', '"x.csv" is empty.'],
    ['white space', ' \n\r\n', '"x.csv" is empty.'],
    ['a lone byte order mark', '\uFEFF', '"x.csv" is empty.'],
    ['a workbook', Buffer.from('504b0304140006000800000021000000', 'hex'), 'export workbooks as CSV'],
    ['rows of which none fits', 'a,b\n1\n2\n3\n', 'No row of "x.csv" can be read. Line 2: 1 of 2 fields.'],
  ])('refuses %s', async (_, content, message) => {
    await expect(load(content)).rejects.toThrow(message);
    await expect(load(content)).rejects.toHaveProperty('name', 'InvalidInputError');
  });
});

describe('loadTable: JSON and Parquet', () => {
  it.each([
    ['an array', '[{"a": 1, "b": {"c": [1, 2]}}, {"a": 2.5, "d": "2024-01-01"}]', 2],
    ['lines', '{"a": 1, "b": {"c": [1, 2]}}\n{"a": 2.5, "d": "2024-01-01"}\n', 2],
    [
      'UTF-16',
      Buffer.from('\uFEFF[{"a": 1, "b": {"c": [1, 2]}}, {"a": 2.5, "d": "2024-01-01"}]', 'utf16le'),
      2,
    ],
  ])('reads JSON: %s', async (_, content, rows) => {
    const table = await load(content, { name: 'x.json' });
    expect(table).toMatchObject({
      format: 'json',
      rows,
      columns: ['a DOUBLE', 'b STRUCT("c" BIGINT[])', 'd DATE'],
      values: [
        [1, { c: ['1', '2'] }, null],
        [2.5, null, '2024-01-01'],
      ],
    });
  });

  it('skips lines of NDJSON that are no JSON, and says which', async () => {
    const table = await load('{"a":1}\n{"a":2\n\n{"a":3}\noops\n{"a":4}\n', { name: 'x.ndjson' });
    expect(table).toMatchObject({ values: [['1'], ['3'], ['4']], skippedRows: 2 });
    expect(table.skippedExamples.map(({ line, text }) => [line, text])).toEqual([
      [2, '{"a":2'],
      [5, 'oops'],
    ]);
  });

  it('says where a broken document is broken, without the path it lies at', async () => {
    await expect(load('[{"a":1},{"a":2]', { name: 'x.json' })).rejects.toThrow(
      /^"x\.json" cannot be read: Invalid Input Error: Malformed JSON in file "x\.json", at byte \d+ in record\/value \d/,
    );
    await expect(load(`PAR1${'x'.repeat(100)}`, { name: 'x.parquet' })).rejects.toThrow(
      '"x.parquet" cannot be read',
    );
  });
});
