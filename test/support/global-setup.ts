import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import type { TestProject } from 'vitest/node';
import { startPostgres } from '#scripts/embedded/postgres.ts';
import { startRedis } from '#scripts/embedded/redis.ts';
import { migrate } from '#shared/db/migrate.ts';

/** What every test file may ask for with `inject('servers')`; tests use `createWorld` instead. */
interface TestServers {
  /** Superuser, database `postgres`. */
  readonly postgresAdminUrl: string;
  /** The service's role, any database: replace the path. */
  readonly postgresUrl: string;
  readonly redisUrl: string;
  /** Parent of all temporary directories of this run. */
  readonly dir: string;
}

declare module 'vitest' {
  export interface ProvidedContext {
    servers: TestServers;
  }
}

export const templateDatabase = 'windlass_template';

/**
 * One Postgres and one Redis for the whole run. The schema is migrated once, into a template that every world is
 * copied from. Killed with -9, the run still leaves no server behind: they have a watchdog.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-test-'));
  // Task hosts run as users of their own and have to get through to their scratch directories.
  chmodSync(dir, 0o711);
  const log = () => undefined;
  const started: { stop(): Promise<void> }[] = [];
  const teardown = async () => {
    await Promise.all(started.map((server) => server.stop()));
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const postgres = await startPostgres({ dir: join(dir, 'postgres'), durable: false, log });
    started.push(postgres);
    const redis = await startRedis({ dir: join(dir, 'redis'), appendonly: false, log });
    started.push(redis);
    await makeTemplate(postgres.adminUrl, postgres.url);
    const { url: postgresUrl, adminUrl: postgresAdminUrl } = postgres;
    project.provide('servers', { postgresAdminUrl, postgresUrl, redisUrl: redis.url, dir });
    return teardown;
  } catch (err) {
    await teardown();
    throw err;
  }
}

async function makeTemplate(adminUrl: string, serviceUrl: string): Promise<void> {
  const admin = new Client({ connectionString: adminUrl });
  await admin.connect();
  try {
    await admin.query(`CREATE DATABASE ${templateDatabase} OWNER windlass`);
    const url = new URL(serviceUrl);
    url.pathname = templateDatabase;
    await migrate(url.href);
    await admin.query(`ALTER DATABASE ${templateDatabase} IS_TEMPLATE true ALLOW_CONNECTIONS false`);
  } finally {
    await admin.end();
  }
}
