import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { InvalidInputError } from '#shared/tasks/define-task.ts';
import { checkStatement } from './check-statement.ts';
import { openForLoading, openForQuery, type Database } from './database.ts';

let dir: string;
let database: Database;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'windlass-check-'));
  {
    await using loading = await openForLoading(dir);
    await loading.connection.run('CREATE TABLE data AS SELECT 1 AS a');
  }
  database = await openForQuery(dir, [join(dir, 'out.csv')]);
});

afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const check = (sql: string) => checkStatement(database.connection, sql, [{ name: 'data', file: 'x.csv' }]);

describe('checkStatement', () => {
  it.each([
    'SELECT 1',
    'FROM data',
    'WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) FROM t',
    'PIVOT data ON a IN (1, 2) USING count(*)',
    'SELECT unnest(range(3)), list_transform([1], lambda x: x + 1)',
    'FROM range(3), data, LATERAL (SELECT a + 1)',
    'DESCRIBE SELECT 1',
    'SHOW TABLES',
    'SELECT table_name FROM information_schema.tables',
  ])('lets %s through', async (sql) => {
    expect(await check(sql)).toEqual({ sql });
  });

  it.each([
    ["SELECT 'a;b' AS c ; -- done; really", "SELECT 'a;b' AS c "],
    ['SELECT 1;;', 'SELECT 1'],
    ["SELECT '--;'", "SELECT '--;'"],
    ['SELECT 1 -- one', 'SELECT 1 -- one'],
  ])('takes the end away of %s', async (sql, expected) => {
    expect(await check(sql)).toEqual({ sql: expected });
  });

  it.each([
    ['SELECT 1; SELECT 2', 'holds 2 statements'],
    ['SELECT 1; DROP TABLE data', 'holds 2 statements'],
    ["COPY data TO 'x.csv'", 'COPY is not allowed'],
    ["ATTACH 'x.db'", 'ATTACH is not allowed'],
    ['PRAGMA version', 'PRAGMA is not allowed'],
    ["PRAGMA table_info('data')", 'PRAGMA is not allowed'],
    ['SET threads = 8', 'SET is not allowed'],
    ['RESET threads', 'RESET is not allowed'],
    ['INSTALL httpfs', 'INSTALL is not allowed'],
    ['LOAD httpfs', 'LOAD is not allowed'],
    ['CREATE TABLE x AS FROM data', 'CREATE is not allowed'],
    ['INSERT INTO data VALUES (2)', 'INSERT is not allowed'],
    ['-- a comment\nDELETE FROM data', 'DELETE is not allowed'],
    ['EXPLAIN ANALYZE SELECT 1', 'EXPLAIN is not allowed'],
    ['CALL duckdb_settings()', 'CALL is not allowed'],
    ["EXPORT DATABASE 'x'", 'EXPORT is not allowed'],
    ['PIVOT data ON a', 'PIVOT must name its values'],
    [
      "FROM read_csv('/etc/passwd')",
      'read_csv() is not allowed: a query reads only the files of its job, as data ("x.csv")',
    ],
    ["FROM READ_TEXT('/etc/passwd')", 'read_text() is not allowed'],
    ['FROM "read_blob"(\'/etc/passwd\')', 'read_blob() is not allowed'],
    ["SELECT (SELECT max(file) FROM glob('/etc/*'))", 'glob() is not allowed'],
    ["WITH x AS (FROM parquet_scan('/x')) FROM x", 'parquet_scan() is not allowed'],
    ["DESCRIBE FROM read_json('/x')", 'read_json() is not allowed'],
    ["FROM query('SELECT 1')", 'query() is not allowed'],
    [
      "SELECT * FROM enable_logging(storage = 'file', storage_path = '/tmp')",
      'enable_logging() is not allowed',
    ],
    ['FROM duckdb_settings()', 'duckdb_settings() is not allowed'],
    ['FROM duckdb_logs', 'duckdb_logs is not allowed'],
    ['FROM pg_catalog.pg_settings', 'pg_settings is not allowed'],
    ["SELECT getenv('HOME')", 'getenv() is not allowed'],
    ["SELECT current_setting('temp_directory')", 'current_setting() is not allowed'],
    ["SELECT write_log('x')", 'write_log() is not allowed'],
    ["FROM '/etc/passwd'", 'Table with name /etc/passwd does not exist'],
    ['SELECT ?', 'has placeholders'],
    ['SELECT $name', 'has placeholders'],
    [' -- nothing;\n /* at all */ ;', 'The SQL is empty'],
    ['SELECT 1)', 'syntax error at or near ")"'],
    ['SELECT 1 /* open', 'unterminated /* comment'],
  ])('refuses %s', async (sql, message) => {
    await expect(check(sql)).rejects.toThrow(message);
    await expect(check(sql)).rejects.toBeInstanceOf(InvalidInputError);
  });

  it.each([2_000, 20_000])('survives a statement nested %i deep', async (depth) => {
    const sql = `SELECT ${'abs('.repeat(depth)}1${')'.repeat(depth)}`;
    await expect(check(sql)).rejects.toThrow(/Max expression depth|memory exhausted/);
  });
});
