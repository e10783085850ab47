/**
 * DuckDB in two lives over one database file in the scratch directory.
 *
 * First it loads: it may read files, and only our own statements run. Then it is closed and opened again read-only,
 * with file access limited to what the query needs and its configuration locked, and the caller's statement
 * runs. So no statement of a caller ever meets a database that can read a file.
 */
import { DuckDBInstance, type DuckDBConnection } from '@duckdb/node-api';
import { join } from 'node:path';
import { memoryLimit, spillLimit } from './limits.ts';
import { quoteList } from './sql-text.ts';

export interface Database extends AsyncDisposable {
  readonly connection: DuckDBConnection;
}

/** Opens the database for loading files. */
export async function openForLoading(scratchDir: string): Promise<Database> {
  return await open(scratchDir, { access_mode: 'READ_WRITE' });
}

/**
 * Opens the loaded database for the caller's statement. From here on DuckDB refuses every file but `allowedPaths`
 * (Parquet inputs, which are read where they lie, and the result), every extension and every change of a setting.
 */
export async function openForQuery(scratchDir: string, allowedPaths: readonly string[]): Promise<Database> {
  const database = await open(scratchDir, { access_mode: 'READ_ONLY' });
  await database.connection.run(`SET allowed_paths = ${quoteList(allowedPaths)}`);
  await database.connection.run("SET TimeZone = 'UTC'");
  await database.connection.run('SET enable_external_access = false');
  await database.connection.run('SET lock_configuration = true');
  return database;
}

async function open(scratchDir: string, access: { access_mode: string }): Promise<Database> {
  const instance = await DuckDBInstance.create(join(scratchDir, 'windlass.duckdb'), {
    ...access,
    threads: '1',
    memory_limit: memoryLimit,
    temp_directory: join(scratchDir, 'spill'),
    max_temp_directory_size: spillLimit,
    home_directory: scratchDir,
    extension_directory: join(scratchDir, 'extensions'),
    secret_directory: join(scratchDir, 'secrets'),
    allow_persistent_secrets: 'false',
    allow_community_extensions: 'false',
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
  });
  const connection = await instance.connect();
  return {
    connection,
    async [Symbol.asyncDispose]() {
      connection.closeSync();
      instance.closeSync();
    },
  };
}
