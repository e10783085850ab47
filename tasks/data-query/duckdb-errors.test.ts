import { describe, expect, it } from 'vitest';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { explainDuckdbError } from './duckdb-errors.ts';

const explain = (message: string) => explainDuckdbError(new Error(message), { about: 'The query failed' });

describe('explainDuckdbError', () => {
  it.each([
    'Binder Error: no column',
    'Conversion Error: not a number',
    'Out of Memory Error: 512 MB used',
    'IO Error: no magic bytes',
  ])('fails the job for good: %s', (message) => {
    expect(explain(message)).toBeInstanceOf(InvalidInputError);
  });

  it.each([
    'IO Error: Could not write file: No space left on device',
    'INTERNAL Error: a bug',
    'INTERRUPT Error: Interrupted!',
  ])('lets the job be tried again: %s', (message) => {
    expect(explain(message)).not.toBeInstanceOf(InvalidInputError);
    expect(explain(message)).toHaveProperty('message', message);
  });

  it("leaves out advice about DuckDB's settings", () => {
    const message = 'Invalid Input Error: bad line\n\nPossible fixes:\n* SET threads=1';
    expect(explain(message)).toHaveProperty('message', 'The query failed: Invalid Input Error: bad line');
  });
});
