import type { DuckDBConnection } from '@duckdb/node-api';

/** How often a query that was asked to stop is asked again, in ms. */
const interruptAgainMs = 50;

/**
 * Runs what `work` does on the connection, and interrupts it when the signal is aborted. DuckDB forgets an interrupt
 * that comes just before a query begins, so it is repeated until the work has ended.
 * @throws the signal's reason when that was why it ended, else whatever `work` throws.
 */
export async function interruptible<Value>(
  connection: DuckDBConnection,
  signal: AbortSignal,
  work: () => Promise<Value>,
): Promise<Value> {
  signal.throwIfAborted();
  let repeat: NodeJS.Timeout | undefined;
  const interrupt = () => {
    connection.interrupt();
    repeat = setInterval(() => connection.interrupt(), interruptAgainMs);
  };
  signal.addEventListener('abort', interrupt, { once: true });
  try {
    return await work();
  } catch (err) {
    signal.throwIfAborted();
    throw err;
  } finally {
    signal.removeEventListener('abort', interrupt);
    clearInterval(repeat);
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
