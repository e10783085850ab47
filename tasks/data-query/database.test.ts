import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openForLoading, openForQuery, type Database } from './database.ts';

let dir: string;
let database: Database;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'windlass-database-'));
  await writeFile(join(dir, 'other.csv'), 'secret\n1\n');
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

const read = async (sql: string) => {
  const reader = await database.connection.runAndReadAll(sql);
  return reader.getRowsJson();
};

describe('a database opened for a query (ASVS 1.2.4)', () => {
  it.each([
    ["FROM read_text('/etc/passwd')", 'file system operations are disabled'],
    ["FROM read_csv('DIR/other.csv')", 'file system operations are disabled'],
    ["FROM 'DIR/other.csv'", 'file system operations are disabled'],
    ["FROM glob('/etc/*')", 'file system operations are disabled'],
    ["FROM parquet_metadata('/x')", 'file system operations are disabled'],
    ["COPY data TO 'DIR/else.csv'", 'file system operations are disabled'],
    ["EXPORT DATABASE 'DIR/export'", 'file system operations are disabled'],
    ["ATTACH 'DIR/x.db'", 'file system operations are disabled'],
    ["FROM read_csv('https://127.0.0.1:1/x.csv')", 'file system operations are disabled'],
    ['INSTALL httpfs', 'disabled'],
    ['LOAD httpfs', 'disabled'],
    ['SET enable_external_access = true', 'configuration has been locked'],
    ["SET allowed_paths = ['/etc/passwd']", 'configuration has been locked'],
    ["SET memory_limit = '100GB'", 'configuration has been locked'],
    ['SET threads = 8', 'configuration has been locked'],
    ['RESET lock_configuration', 'configuration has been locked'],
    ['CREATE TABLE x AS FROM data', 'read-only mode'],
    ['DELETE FROM data', 'read-only mode'],
    ["SELECT getenv('HOME')", 'does not exist'],
  ])('refuses %s even if it came that far', async (sql, message) => {
    await expect(read(sql.replaceAll('DIR', dir))).rejects.toThrow(message);
  });

  it('has the settings that the limits promise', async () => {
    const names = [
      'allow_community_extensions',
      'allow_persistent_secrets',
      'autoinstall_known_extensions',
      'autoload_known_extensions',
      'enable_external_access',
      'lock_configuration',
      'max_temp_directory_size',
      'memory_limit',
      'temp_directory',
      'threads',
      'TimeZone',
    ];
    const rows = await read(
      `SELECT name, value FROM duckdb_settings() WHERE name IN (${names.map((name) => `'${name}'`).join(', ')}) ORDER BY name`,
    );
    expect(
      Object.fromEntries(
        rows.map(([name, value]) => [name, JSON.stringify(value).replace(dir, '<scratch>')]),
      ),
    ).toMatchInlineSnapshot(`
      {
        "TimeZone": ""UTC"",
        "allow_community_extensions": ""false"",
        "allow_persistent_secrets": ""false"",
        "autoinstall_known_extensions": ""false"",
        "autoload_known_extensions": ""false"",
        "enable_external_access": ""false"",
        "lock_configuration": ""true"",
        "max_temp_directory_size": ""7.4 GiB"",
        "memory_limit": ""488.2 MiB"",
        "temp_directory": ""<scratch>/spill"",
        "threads": ""1"",
      }
    `);
  });

  it('may write the result', async () => {
    await read(`COPY data TO '${join(dir, 'out.csv')}' (USE_TMP_FILE false)`);
    expect(await readdir(dir)).toContain('out.csv');
  });
});
