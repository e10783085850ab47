import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { openForLoading, openForQuery } from './database.ts';
import { runStatement, writeResult } from './write-result.ts';

/** Writes the rows of `sql` and gives the size of the file, which DuckDB deletes when it is interrupted. */
async function write(sql: string, sizeBytesMax: number): Promise<{ sizeBytes: unknown; problem: unknown }> {
  const dir = await mkdtemp(join(tmpdir(), 'windlass-write-'));
  try {
    await (await openForLoading(dir))[Symbol.asyncDispose]();
    const path = join(dir, 'out.csv');
    await using database = await openForQuery(dir, [path]);
    const { signal } = new AbortController();
    const result = await runStatement(database.connection, { sql }, { rowsMax: 10_000_000, signal });
    const options = { path, format: 'csv', sizeBytesMax, signal } as const;
    const problem = await writeResult(database.connection, result, options).then(
      () => undefined,
      (err: unknown) => err,
    );
    const sizeBytes = await stat(path).then(
      ({ size }) => size,
      () => 'no file',
    );
    return { sizeBytes, problem };
  } finally {
    await rm(dir, { recursive: true });
  }
}

describe('writeResult', () => {
  it('refuses a result that is over its limit by a byte', async () => {
    expect(await write("SELECT 'abc' AS a", 6)).toEqual({ sizeBytes: 6, problem: undefined });
    const refused = new InvalidInputError(
      'The result is larger than 5 bytes. Aggregate, select fewer columns, lower rowsMax, or write parquet.',
    );
    expect((await write("SELECT 'abc' AS a", 5)).problem).toEqual(refused);
  });

  it('stops a result while it grows instead of filling the disk', async () => {
    const { sizeBytes, problem } = await write(
      "SELECT repeat('x', 2000) AS a FROM range(1000000)",
      1_000_000,
    );
    expect(problem).toHaveProperty(
      'message',
      expect.stringContaining('The result is larger than 1000000 bytes'),
    );
    expect(sizeBytes).toBe('no file');
  });
});
