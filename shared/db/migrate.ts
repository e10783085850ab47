import { readdir, readFile } from 'node:fs/promises';
import pg from 'pg';

const directory = new URL('./migrations/', import.meta.url);

/** "windlass" in ASCII: every process that migrates this database waits for the same lock. */
const migrationLock = 0x77696e64;

/**
 * Brings the database to the newest schema. Several processes may call it at once: one works, the others
 * wait for the advisory lock and find nothing to do. Each migration is one transaction, so a process that dies
 * half-way leaves the schema at a whole step.
 * @throws Error when the database cannot be reached, or was migrated by a newer version than this.
 */
export async function migrate(databaseUrl: string): Promise<void> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    connectionTimeoutMillis: 10_000,
    application_name: 'windlass-migrate',
  });
  // A connection that breaks while a query runs rejects that query too; the event alone must not end the process.
  client.on('error', () => {});
  await client.connect().catch((err: unknown) => {
    // The first thing that a process does with its configuration: say which part of it is wrong. Without the password.
    const { host, port, database } = client;
    const reason = err instanceof Error ? err.message : String(err);
    throw new Error(
      `Postgres cannot be used: ${reason} (database "${database ?? ''}" on ${host}:${port}). Check DATABASE_URL.`,
      { cause: err },
    );
  });
  try {
    await client.query('SELECT pg_advisory_lock($1)', [migrationLock]);
    await client.query(`CREATE TABLE IF NOT EXISTS migrations
      (number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`);
    const { rows } = await client.query<{ number: number }>('SELECT number FROM migrations');
    const applied = new Set(rows.map((row) => row.number));
    const known = await listMigrations();
    const newest = Math.max(0, ...applied);
    if (newest > known.length) {
      throw new Error(
        `The database has schema ${newest}, this version knows ${known.length}: a newer Windlass migrated it. Start that version.`,
      );
    }
    for (const migration of known) {
      if (!applied.has(migration.number)) await applyMigration(client, migration);
    }
  } finally {
    await client.end();
  }
}

async function applyMigration(client: pg.Client, migration: Migration): Promise<void> {
  const sql = await readFile(new URL(migration.file, directory), 'utf8');
  await client.query('BEGIN');
  try {
    await client.query(sql);
    await client.query('INSERT INTO migrations (number, name) VALUES ($1, $2)', [
      migration.number,
      migration.file,
    ]);
    await client.query('COMMIT');
  } catch (err) {
    await client.query('ROLLBACK').catch(() => {});
    throw new Error(`Migration ${migration.file} failed; the database is unchanged by it.`, { cause: err });
  }
}

interface Migration {
  readonly number: number;
  readonly file: string;
}

async function listMigrations(): Promise<Migration[]> {
  const files = (await readdir(directory)).filter((file) => file.endsWith('.sql')).toSorted();
  return files.map((file, index) => {
    const number = Number(file.slice(0, 4));
    if (number !== index + 1) throw new Error(`Migration ${file} should have number ${index + 1}.`);
    return { number, file };
  });
}
