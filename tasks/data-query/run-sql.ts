import type { DuckDBConnection } from '@duckdb/node-api';

/**
 * Runs what `work` does on the connection, and interrupts it when the signal is aborted.
 * @throws the signal's reason when that was why it ended, else whatever `work` throws.
 */
export async function interruptible<Value>(
  connection: DuckDBConnection,
  signal: AbortSignal,
  work: () => Promise<Value>,
): Promise<Value> {
  signal.throwIfAborted();
  const interrupt = () => connection.interrupt();
  signal.addEventListener('abort', interrupt, { once: true });
  try {
    return await work();
  } catch (err) {
    signal.throwIfAborted();
    throw err;
  } finally {
    signal.removeEventListener('abort', interrupt);
  }
}

/** The first column of a small answer, whose values are texts. */
export async function readTexts(
  connection: DuckDBConnection,
  sql: string,
  values: Record<string, string> = {},
): Promise<string[]> {
  const reader = await connection.runAndReadAll(sql, values);
  return reader.getRows().map(([text]) => {
    if (typeof text !== 'string') throw new TypeError(`Expected a text from: ${sql}`);
    return text;
  });
}

/** The number of rows of `source`, a table or a subquery. */
export async function countRows(connection: DuckDBConnection, source: string): Promise<number> {
  const [count] = await readTexts(connection, `SELECT count(*)::VARCHAR FROM ${source}`);
  return Number(count);
}
