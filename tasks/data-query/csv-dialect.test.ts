import { describe, expect, it } from 'vitest';
import { chooseDialect } from './csv-dialect.ts';

const choose = (text: string, wishes: Partial<Parameters<typeof chooseDialect>[1]> = {}) =>
  chooseDialect({ text, isWhole: true }, { isTabSeparated: false, ...wishes });

describe('findCsvDialect', () => {
  it.each([
    ['commas', 'a,b\n1,2\n', ','],
    ['semicolons beside decimal commas', 'a;b;c\n1,5;x;2,5\n2,5;y;3,5\n', ';'],
    ['tabs beside commas', 'a\tb\nx, y\t1\nz, w\t2\n', '\t'],
    ['pipes', 'a|b\n1|x, y\n', '|'],
    ['a delimiter inside quotes', 'a,b\n"x;y;z",1\n"x;y;z",2\n', ','],
    ['one column', 'word\nalpha\nbeta\n', ','],
    ['a first line that names it', 'sep=|\na,b|c\n', '|'],
  ])('finds the delimiter: %s', (_, text, delimiter) => {
    expect(choose(text).delimiter).toBe(delimiter);
  });

  it('takes lines above the table for notes', () => {
    expect(choose('Report\nof May\n\nid,name\n1,a\n2,b\n')).toMatchObject({ skipLines: 3, width: 2 });
    expect(choose('id,name\n1,a\n')).toMatchObject({ skipLines: 0, width: 2 });
    expect(choose('sep=;\r\na;b\r\n')).toMatchObject({ skipLines: 1, width: 2 });
  });

  it('does what it is told', () => {
    expect(choose('a;b,c\n', { delimiter: ',' })).toMatchObject({ delimiter: ',', width: 2 });
    expect(choose("a,'b;c'\n", { quote: "'" })).toMatchObject({ delimiter: ',', quote: "'", width: 2 });
    expect(choose('x\na,b\n1,2\n', { skipLines: 0 })).toMatchObject({ skipLines: 0, width: 1 });
    expect(choose('a\tb,c\n1\t2,3\n', { isTabSeparated: true }).delimiter).toBe('\t');
  });

  it('does not count the row at which the sample was cut off', () => {
    const sample = { text: 'a;b\n3,4,5,6,7', isWhole: false };
    expect(chooseDialect(sample, { isTabSeparated: false })).toMatchObject({ delimiter: ';', width: 2 });
  });
});
