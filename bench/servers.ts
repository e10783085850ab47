/**
 * Postgres and Redis of the benchmark's own, as durable as in production: fsync and synchronous_commit are on, Redis
 * writes its append-only file. Every measure gets servers of its own.
 */
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import { startPostgres } from '#scripts/embedded/postgres.ts';
import { startRedis } from '#scripts/embedded/redis.ts';
import { migrate } from '#shared/db/migrate.ts';

/** What one api and its workers work on. */
export interface BenchWorld {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly dataDir: string;
  /** Deletes all jobs and everything in Redis, and lets Postgres write out what it has gathered. */
  empty(): Promise<void>;
}

export interface BenchServers {
  readonly versions: { readonly postgres: string; readonly redis: string };
  /** A new database, an emptied Redis, an empty directory. */
  makeWorld(): Promise<BenchWorld>;
  stop(): Promise<void>;
}

export async function startServers(): Promise<BenchServers> {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-bench-'));
  // The servers, and task hosts, run as users of their own and have to get through.
  chmodSync(dir, 0o711);
  const log = () => undefined;
  const started: { stop(): Promise<void> }[] = [];
  const stop = async () => {
    await Promise.all(started.map((server) => server.stop()));
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const postgres = await startPostgres({ dir: join(dir, 'postgres'), durable: true, log });
    started.push(postgres);
    const redis = await startRedis({ dir: join(dir, 'redis'), appendonly: true, log });
    started.push(redis);
    let worlds = 0;
    return {
      versions: await readVersions(postgres.url, redis.url),
      stop,
      async makeWorld() {
        worlds += 1;
        const name = `bench_${worlds}`;
        await runSql(postgres.adminUrl, [`CREATE DATABASE ${name} OWNER windlass`]);
        const databaseUrl = withDatabase(postgres.url, name);
        await migrate(databaseUrl);
        const dataDir = join(dir, name);
        mkdirSync(dataDir);
        chmodSync(dataDir, 0o711);
        const adminUrl = withDatabase(postgres.adminUrl, name);
        const world: BenchWorld = {
          databaseUrl,
          redisUrl: redis.url,
          dataDir,
          async empty() {
            await runSql(adminUrl, [
              'TRUNCATE jobs, files, events, idempotency_keys CASCADE',
              'UPDATE queues SET window_size = DEFAULT',
              'CHECKPOINT',
            ]);
            await withRedis(redis.url, (client) => client.flushall());
          },
        };
        await world.empty();
        return world;
      },
    };
  } catch (err) {
    await stop();
    throw err;
  }
}

export async function withRedis<Value>(url: string, work: (redis: Redis) => Promise<Value>): Promise<Value> {
  const redis = new Redis(url);
  try {
    return await work(redis);
  } finally {
    redis.disconnect();
  }
}

function withDatabase(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = name;
  return changed.href;
}

async function runSql(url: string, statements: readonly string[]): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

async function readVersions(databaseUrl: string, redisUrl: string): Promise<BenchServers['versions']> {
  const client = new Client({ connectionString: databaseUrl });
  await client.connect();
  const { rows } = await client.query<{ version: string }>(
    `SELECT current_setting('server_version') AS version`,
  );
  await client.end();
  const info = await withRedis(redisUrl, (redis) => redis.info('server'));
  return { postgres: rows[0]?.version ?? '', redis: /redis_version:(\S+)/.exec(info)?.[1] ?? '' };
}
