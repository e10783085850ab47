import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createCsvSplitter, type CsvRecord } from './csv-records.ts';
import { rowCharsMax } from './limits.ts';
import { quoteText } from './sql-text.ts';

const syntax = { delimiter: ',', quote: '"' };

function split(...chunks: string[]): CsvRecord[] {
  const splitter = createCsvSplitter(syntax);
  return [...chunks.flatMap((chunk) => splitter.push(chunk)), ...splitter.end()];
}

function fields(text: string) {
  return split(text).map((record) => record.fields);
}

describe('readCsvRecords', () => {
  it.each([
    [
      'line ends of three kinds',
      'a,b\nc,d\r\ne,f\rg,h',
      [
        ['a', 'b'],
        ['c', 'd'],
        ['e', 'f'],
        ['g', 'h'],
      ],
    ],
    ['delimiters, quotes and line ends in quotes', '"a,b","c""d","e\nf"\n', [['a,b', 'c"d', 'e\nf']]],
    [
      'empty fields',
      ',\n"",x\n',
      [
        ['', ''],
        ['', 'x'],
      ],
    ],
    [
      'quotes in the middle',
      'the "big" one,5"\n"5" pipe","a "b" c"\n',
      [
        ['the "big" one', '5"'],
        ['5" pipe', 'a "b" c'],
      ],
    ],
    ['spaces around quotes', ' "a, b" ,c\n', [['a, b', 'c']]],
    ['an end without a line end', 'a,"b"', [['a', 'b']]],
    ['nothing', '', []],
  ])('understands %s', (_, text, expected) => {
    expect(fields(text)).toEqual(expected);
  });

  it('gives up only the line whose quote is never closed', () => {
    expect(split('a,b\n1,"x\n2,y\n3,"z"\n')).toEqual([
      { fields: ['a', 'b'], line: 1 },
      { fields: ['1,"x'], line: 2, problem: 'a quote is opened and never closed' },
      { fields: ['2', 'y'], line: 3 },
      { fields: ['3', 'z'], line: 4 },
    ]);
  });

  it('numbers records by the line they begin on', () => {
    expect(split('a\n"b\r\nc"\nd').map(({ line }) => line)).toEqual([1, 2, 4]);
  });

  it('skips a row that is too long, however it arrives, and goes on after it', () => {
    const long = 'x'.repeat(rowCharsMax);
    for (const chunks of [
      [`a\n${long}${long}\nb`],
      ['a\n', long, long, '\nb'],
      ['a\n"', long, long, '"\nb'],
    ]) {
      const records = split(...chunks);
      expect(records.map(({ line, problem }) => [line, problem])).toEqual([
        [1, undefined],
        [2, `the row is longer than ${rowCharsMax} characters`],
        [3, undefined],
      ]);
    }
  });

  const hardText = fc
    .array(fc.constantFrom('a', 'é', ',', '"', '""', '\n', '\r', '\r\n', ' ', '"x"', '"a,b"'), {
      maxLength: 40,
    })
    .map((parts) => parts.join(''));

  it('reads the same wherever the text is cut into chunks', () => {
    fc.assert(
      fc.property(hardText, fc.array(fc.nat(40), { maxLength: 5 }), (text, cuts) => {
        const places = [0, ...cuts.toSorted((a, b) => a - b), text.length];
        const chunks = places.slice(1).map((end, index) => text.slice(places[index], end));
        expect(split(...chunks)).toEqual(split(text));
      }),
    );
  });

  it("reads what DuckDB's strict mode reads, where that takes the file", async () => {
    const dir = await mkdtemp(join(tmpdir(), 'windlass-csv-'));
    const instance = await DuckDBInstance.create();
    const connection = await instance.connect();
    const path = join(dir, 'x.csv');
    const settings = `header = true, delim = ',', quote = '"', escape = '"', comment = '', skip = 0, strict_mode = true, sample_size = -1, all_varchar = true`;
    const cell = fc.constantFrom(
      'a',
      '',
      '1',
      ' s ',
      '"x"',
      '"a,b"',
      '"l1\nl2"',
      '"q""q"',
      'o"k',
      '"5" p"',
      '"t" ',
      ' "u"',
    );
    const rows = fc.array(fc.tuple(cell, cell), { minLength: 1, maxLength: 6 });
    let compared = 0;
    try {
      await fc.assert(
        fc.asyncProperty(rows, fc.constantFrom('\n', '\r\n'), async (table, lineEnd) => {
          const text = ['h1,h2', ...table.map((row) => row.join(','))].join(lineEnd);
          await writeFile(path, text);
          const theirs = await connection
            .runAndReadAll(`FROM read_csv(${quoteText(path)}, ${settings})`)
            .then((reader) => reader.getRowsJson())
            .catch(() => undefined);
          if (theirs === undefined) return;
          compared += 1;
          const ours = fields(text).slice(1);
          expect(ours.map((row) => row.map((value) => (value === '' ? null : value)))).toEqual(theirs);
        }),
        { numRuns: 300 },
      );
    } finally {
      connection.closeSync();
      instance.closeSync();
      await rm(dir, { recursive: true });
    }
    expect(compared).toBeGreaterThan(50);
  });
});
