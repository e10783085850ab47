import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import { inject } from 'vitest';
import { templateDatabase } from './global-setup.ts';
import { waitFor } from './wait-for.ts';

/** What a test may change and break without another test noticing. */
export interface World {
  /** A migrated database of its own; the role is the service's, not a superuser. */
  readonly databaseUrl: string;
  readonly redisUrl: string;
  /** For REDIS_PREFIX: the Redis server is shared. */
  readonly redisPrefix: string;
  /** For WINDLASS_DATA_DIR: an empty directory, on disk. */
  readonly dataDir: string;
  /**
   * Takes all of it away again.
   * @throws Error when something still uses the database: a test that leaves a worker running fails.
   */
  dispose(): Promise<void>;
}

/** Makes a world in some 30 ms: the database is copied from a template that was migrated once for the run. */
export async function createWorld(): Promise<World> {
  const servers = inject('servers');
  const name = `wl_${randomUUID().replaceAll('-', '')}`;
  await asAdmin((admin) =>
    admin.query(`CREATE DATABASE ${name} TEMPLATE ${templateDatabase} OWNER windlass`),
  );
  const databaseUrl = new URL(servers.postgresUrl);
  databaseUrl.pathname = name;
  const dataDir = join(servers.dir, name);
  mkdirSync(dataDir);
  chmodSync(dataDir, 0o711);
  return {
    databaseUrl: databaseUrl.href,
    redisUrl: servers.redisUrl,
    redisPrefix: name,
    dataDir,
    async dispose() {
      try {
        await waitUntilUnused(name);
      } finally {
        await asAdmin((admin) => admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));
        await deleteKeys(servers.redisUrl, name);
        rmSync(dataDir, { recursive: true, force: true });
      }
    },
  };
}

/** A pool that was just ended takes a moment to be gone on the server's side. Autovacuum works where it likes. */
async function waitUntilUnused(database: string): Promise<void> {
  let users: string[] = [];
  await asAdmin((admin) =>
    waitFor(
      async () => {
        const { rows } = await admin.query<{ user: string }>(
          `SELECT coalesce(nullif(application_name, ''), 'unnamed') AS user FROM pg_stat_activity
           WHERE datname = $1 AND backend_type = 'client backend'`,
          [database],
        );
        users = rows.map((row) => row.user);
        return users.length === 0 ? true : undefined;
      },
      {
        what: 'the test to close its database connections before dispose()',
        deadlineMs: 5_000,
        seen: () => users,
      },
    ),
  );
}

async function asAdmin(work: (admin: Client) => Promise<unknown>): Promise<void> {
  const admin = new Client({ connectionString: inject('servers').postgresAdminUrl });
  await admin.connect();
  try {
    await work(admin);
  } finally {
    await admin.end();
  }
}

async function deleteKeys(redisUrl: string, prefix: string): Promise<void> {
  const redis = new Redis(redisUrl, { lazyConnect: true });
  try {
    await redis.connect();
    for await (const keys of redis.scanStream({ match: `${prefix}*`, count: 1_000 }) as AsyncIterable<
      string[]
    >) {
      if (keys.length > 0) await redis.unlink(keys);
    }
  } finally {
    redis.disconnect();
  }
}
