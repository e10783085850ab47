/**
 * Lets through one statement that reads, and says of every other one why not.
 *
 * This is the friendly half of the defence; the hard half is the locked, read-only database (database.ts). It is also
 * the stricter one: DuckDB has table functions that change settings and write logs from within a SELECT, locked
 * or not, so the functions in FROM are a list of those allowed.
 */
import type { DuckDBConnection } from '@duckdb/node-api';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { explainDuckdbError } from './duckdb-errors.ts';
import { readTexts } from './run-sql.ts';

export interface CheckedStatement {
  /** The statement without the semicolon and comments after it, so that it can stand in parentheses. */
  readonly sql: string;
}

/**
 * @param tables what the caller may read, for the messages.
 * @throws InvalidInputError
 */
export async function checkStatement(
  connection: DuckDBConnection,
  sql: string,
  tables: readonly { readonly name: string; readonly file: string }[],
): Promise<CheckedStatement> {
  const count = await countStatements(connection, sql);
  const tree = await parse(connection, sql);
  if (count !== 1) {
    throw new InvalidInputError(
      isPivot(sql)
        ? 'PIVOT must name its values: PIVOT … ON column IN (value, …).'
        : `The SQL holds ${count} statements; a job runs one.`,
    );
  }
  if (tree === undefined) throw new InvalidInputError(refusal(sql));
  refuseFunctions(tree, tables);
  await prepare(connection, sql, tables);
  return { sql: await withoutTail(connection, sql, tree) };
}

async function countStatements(connection: DuckDBConnection, sql: string): Promise<number> {
  if (sql.replace(/--[^\n]*|\/\*[\s\S]*?\*\/|[\s;]/g, '') === '')
    throw new InvalidInputError('The SQL is empty.');
  try {
    const statements = await connection.extractStatements(sql);
    return statements.count;
  } catch (err) {
    throw explainDuckdbError(err, { about: 'The SQL is wrong' });
  }
}

/** The statement as a tree, or undefined when it is not one that reads. */
async function parse(connection: DuckDBConnection, sql: string): Promise<object | undefined> {
  const [json = ''] = await readTexts(connection, 'SELECT json_serialize_sql($sql::VARCHAR)::VARCHAR', {
    sql,
  });
  const tree: unknown = JSON.parse(json);
  return isNode(tree) && tree['error'] === false ? tree : undefined;
}

function isPivot(sql: string): boolean {
  return /\bPIVOT\b/i.test(sql);
}

function refusal(sql: string): string {
  const word = /^[\s(]*([a-z]+)/i.exec(sql.replace(/--[^\n]*|\/\*[\s\S]*?\*\//g, ' '))?.[1]?.toUpperCase();
  const what = word === undefined ? 'This statement' : word;
  return `${what} is not allowed: a query only reads. Use SELECT, WITH, FROM, VALUES, DESCRIBE or SUMMARIZE.`;
}

/** What may stand in FROM and be called, beside tables. All of these compute from their arguments alone. */
const tableFunctions: ReadonlySet<string> = new Set([
  'generate_series',
  'histogram',
  'histogram_values',
  'json_each',
  'json_tree',
  'query_table',
  'range',
  'repeat',
  'repeat_row',
  'unnest',
]);

/** Functions that tell about or act on the process instead of computing. */
const refusedFunctions: ReadonlySet<string> = new Set(['current_setting', 'getenv', 'sleep_ms', 'write_log']);

/** Views of DuckDB's own state; `information_schema` and DESCRIBE say all that a query needs. */
const refusedTables = /^(duckdb_|pragma_|pg_settings$)/;

function refuseFunctions(
  tree: object,
  tables: readonly { readonly name: string; readonly file: string }[],
): void {
  // Not recursive: a statement may be nested deeper than the call stack of a small process.
  const waiting: unknown[] = [tree];
  while (waiting.length > 0) {
    const node = waiting.pop();
    if (!isNode(node)) continue;
    const problem = findProblem(node, tables);
    if (problem !== undefined) throw new InvalidInputError(problem);
    waiting.push(...Object.values(node));
  }
}

function findProblem(
  node: Readonly<Record<string, unknown>>,
  tables: readonly { readonly name: string; readonly file: string }[],
): string | undefined {
  if (node['type'] === 'TABLE_FUNCTION') {
    const called = isNode(node['function']) ? String(node['function']['function_name']).toLowerCase() : '';
    if (!tableFunctions.has(called)) return `${called}() is not allowed: a query reads only ${list(tables)}.`;
  }
  if (node['class'] === 'FUNCTION') {
    const called = String(node['function_name']).toLowerCase();
    if (refusedFunctions.has(called))
      return `${called}() is not allowed: a query computes from its data only.`;
  }
  if (node['type'] === 'BASE_TABLE' && refusedTables.test(String(node['table_name']).toLowerCase())) {
    return `${String(node['table_name'])} is not allowed: a query reads only ${list(tables)}.`;
  }
  return undefined;
}

function list(tables: readonly { readonly name: string; readonly file: string }[]): string {
  return `the files of its job, as ${tables.map(({ name, file }) => `${name} ("${file}")`).join(', ')}`;
}

/** Finds unknown tables, columns and functions, with their place in the caller's own text. */
async function prepare(
  connection: DuckDBConnection,
  sql: string,
  tables: readonly { readonly name: string; readonly file: string }[],
): Promise<void> {
  try {
    const prepared = await connection.prepare(sql);
    const parameters = prepared.parameterCount;
    prepared.destroySync();
    if (parameters > 0) {
      throw new InvalidInputError('The SQL has placeholders; write the values into it.');
    }
  } catch (err) {
    if (err instanceof InvalidInputError) throw err;
    const isUnknownTable = err instanceof Error && err.message.startsWith('Catalog Error: Table with name');
    const hint = isUnknownTable ? ` (a query reads ${list(tables)})` : '';
    throw explainDuckdbError(err, { about: `The SQL is wrong${hint}` });
  }
}

/**
 * Takes the semicolon and the comments after it away. Finding the right semicolon in text would mean to read SQL; so
 * the text before one is taken if DuckDB reads the same statement in it.
 */
async function withoutTail(connection: DuckDBConnection, sql: string, tree: object): Promise<string> {
  const wanted = JSON.stringify(tree);
  const at = sql.lastIndexOf(';');
  if (at === -1) return sql;
  const shorter = sql.slice(0, at);
  if (JSON.stringify(await parse(connection, shorter)) === wanted)
    return withoutTail(connection, shorter, tree);
  return sql;
}

function isNode(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
