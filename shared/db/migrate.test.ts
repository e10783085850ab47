import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { AddressInfo } from 'node:net';
import { Client } from 'pg';
import { expect, inject, test } from 'vitest';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';
import { migrate } from './migrate.ts';

test('who cannot reach Postgres learns which setting to check, and the log learns no password', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  const failed = migrate(`postgres://ada:secret@127.0.0.1:${port}/jobs`);
  await expect(failed).rejects.toThrow(
    `Postgres cannot be used: connect ECONNREFUSED 127.0.0.1:${port} (database "jobs" on 127.0.0.1:${port}). Check DATABASE_URL.`,
  );
});

test('F55: three processes that migrate an empty database at once leave the schema that one would, each step done once', () =>
  withEmptyDatabase(async ({ url, expected }) => {
    await Promise.all([1, 2, 3].map(() => migrate(url)));
    expect(await describeSchema(url)).toEqual(expected);
  }));

test('F55: a migration whose process was killed half-way is undone, and the next start completes it', () =>
  withEmptyDatabase(async ({ url, admin, expected }) => {
    // The first index that a migration makes waits for a lock that this test holds.
    await admin.query(`CREATE SCHEMA held`);
    await admin.query(`CREATE FUNCTION held.wait() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
      AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$`);
    await admin.query(`CREATE EVENT TRIGGER held ON ddl_command_end WHEN TAG IN ('CREATE INDEX')
      EXECUTE FUNCTION held.wait()`);
    await admin.query('SELECT pg_advisory_lock(1)');
    const dying = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { migrate } from '${new URL('./migrate.ts', import.meta.url).href}'; await migrate('${url}');`,
      ],
      { cwd: fileURLToPath(new URL('../../', import.meta.url)), stdio: 'inherit' },
    );
    const waiting = async (count: number) => {
      const { rows } = await admin.query(
        `SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return rows.length === count ? true : undefined;
    };
    await waitFor(() => waiting(1), { what: 'the migration to be half-way' });
    dying.kill('SIGKILL');
    await once(dying, 'exit');
    // The next start waits while Postgres does not know yet that nobody wants the first one's work any more.
    const next = migrate(url);
    await waitFor(() => waiting(2), { what: 'the next start to wait' });
    await admin.query('SELECT pg_advisory_unlock(1)');
    await next;
    await admin.query('DROP EVENT TRIGGER held');
    await admin.query('DROP SCHEMA held CASCADE');
    expect(await describeSchema(url)).toEqual(expected);
  }));

async function withEmptyDatabase(
  work: (database: { url: string; admin: Client; expected: readonly string[] }) => Promise<void>,
): Promise<void> {
  const world = await createWorld();
  const adminUrl = new URL(inject('servers').postgresAdminUrl);
  adminUrl.pathname = new URL(world.databaseUrl).pathname;
  const admin = new Client({ connectionString: adminUrl.href });
  await admin.connect();
  try {
    const expected = await describeSchema(world.databaseUrl);
    expect(expected.length).toBeGreaterThan(100);
    await admin.query('DROP SCHEMA public CASCADE');
    await admin.query('CREATE SCHEMA public AUTHORIZATION pg_database_owner');
    await work({ url: world.databaseUrl, admin, expected });
  } finally {
    await admin.end();
    await world.dispose();
  }
}

/** Every column, index, constraint and applied step. */
async function describeSchema(url: string): Promise<string[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ line: string }>(
      `SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, is_nullable, column_default) AS line
         FROM information_schema.columns WHERE table_schema = 'public'
       UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
       UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace
       UNION ALL SELECT concat_ws(' ', number, name) FROM migrations`,
    );
    return rows.map((row) => row.line).toSorted();
  } finally {
    await client.end();
  }
}
