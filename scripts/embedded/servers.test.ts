import { spawn } from 'node:child_process';
import {
  symlinkSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { isRunning, identifyProcess } from '#scripts/process-identity.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { findRedisServer, isNewEnough } from './find-redis-server.ts';
import { startPostgres, type PostgresServer } from './postgres.ts';
import { startRedis, type RedisServer } from './redis.ts';

let dir: string;
const running = new Set<PostgresServer | RedisServer>();

beforeEach(() => {
  // 0700 and root's own: as closed to the server's user as a checkout in root's home is.
  dir = mkdtempSync(join(tmpdir(), 'windlass-servers-'));
});

afterEach(async () => {
  await Promise.all([...running].map((server) => server.stop(5_000)));
  running.clear();
  rmSync(dir, { recursive: true, force: true });
});

describe('startPostgres', () => {
  test('keeps what was written through a stop, a kill and a kill of everything', async () => {
    const first = await postgres();
    await query(first.url, 'CREATE TABLE kept (n integer); INSERT INTO kept VALUES (1)');
    await first.stop();

    const second = await postgres();
    expect(await query(second.url, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
    process.kill(second.pid, 'SIGKILL');
    expect(await second.exited).toBe('signal SIGKILL');
    expect(existsSync(join(dir, 'data', 'postmaster.pid'))).toBe(true);

    const third = await postgres();
    expect(await query(third.url, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
  });

  test('starts although the pid in a stale lock now belongs to another process', async () => {
    await (await postgres()).stop();
    const pidFile = join(dir, 'data', 'postmaster.pid');
    const bystander = spawn('sleep', ['1000'], { uid: statSync(join(dir, 'data')).uid });
    try {
      writeFileSync(pidFile, `${bystander.pid}\n${join(dir, 'data')}\n1\n5432\n\n127.0.0.1\n`);
      writeFileSync(join(dir, 'server.pid'), JSON.stringify({ pid: bystander.pid, startedAt: 'long ago' }));
      await postgres();
      expect(bystander.exitCode).toBeNull();
    } finally {
      bystander.kill();
    }
  });

  test('gives the service a role that owns its database and is no superuser', async () => {
    const server = await postgres();
    const facts = await query(
      server.url,
      `SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, pg_get_userbyid(datdba) AS owner, datcollate,
              pg_encoding_to_char(encoding) AS encoding, current_setting('fsync') AS fsync,
              current_setting('synchronous_commit') AS synchronous_commit, current_setting('max_connections') AS max_connections,
              current_setting('listen_addresses') AS listen_addresses
         FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()`,
    );
    expect(facts).toMatchInlineSnapshot(`
      [
        {
          "datcollate": "C",
          "encoding": "UTF8",
          "fsync": "on",
          "listen_addresses": "127.0.0.1",
          "max_connections": "200",
          "owner": "windlass",
          "rolcreatedb": false,
          "rolcreaterole": false,
          "rolreplication": false,
          "rolsuper": false,
          "synchronous_commit": "on",
        },
      ]
    `);
    expect(statSync(join(dir, 'credentials.json')).mode & 0o777).toBe(0o600);
    await expect(query(server.url.replace(/:[^:@]+@/, ':wrong@'), 'SELECT 1')).rejects.toThrow(
      'password authentication failed',
    );
  });

  test('a first start that was killed half-way is done again', async () => {
    mkdirSync(join(dir, 'data.partial'));
    writeFileSync(join(dir, 'data.partial', 'PG_VERSION'), '18');
    writeFileSync(join(dir, 'credentials.json'), '{"postg');
    const server = await postgres();
    expect(await query(server.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  test('refuses a cluster of another major version, and says what to do', async () => {
    mkdirSync(join(dir, 'data'));
    writeFileSync(join(dir, 'data', 'PG_VERSION'), '15\n');
    writeFileSync(join(dir, 'credentials.json'), '{"postgres":"a","windlass":"b"}');
    await expect(postgres()).rejects.toThrow(/was made by Postgres 15, and this is Postgres 18/);
  });

  test("says in Postgres's own words why it could not start", async () => {
    const first = await postgres();
    const other = join(dir, 'other');
    await expect(postgres({ dir: other, port: first.port })).rejects.toThrow(/Address already in use/);
  });
});

describe('startRedis', () => {
  test('keeps what was written through a stop and a kill', async () => {
    const first = await redis();
    await command(first.url, 'set', 'kept', '1');
    await first.stop();

    const second = await redis();
    expect(await command(second.url, 'get', 'kept')).toBe('1');
    process.kill(second.pid, 'SIGKILL');
    expect(await second.exited).toBe('signal SIGKILL');

    const third = await redis();
    expect(await command(third.url, 'get', 'kept')).toBe('1');
  });

  test('asks for a password, refuses to evict, and listens on this machine only', async () => {
    const server = await redis();
    await expect(command(`redis://127.0.0.1:${server.port}`, 'get', 'a')).rejects.toThrow('NOAUTH');
    expect(await command(server.url, 'config', 'get', 'maxmemory-policy')).toEqual([
      'maxmemory-policy',
      'noeviction',
    ]);
    expect(await command(server.url, 'config', 'get', 'appendonly')).toEqual(['appendonly', 'yes']);
    expect(await command(server.url, 'config', 'get', 'bind')).toEqual(['bind', '127.0.0.1']);
    expect(readFileSync(`/proc/${server.pid}/cmdline`, 'latin1')).not.toContain(new URL(server.url).password);
  });

  test("says in Redis's own words why it could not start", async () => {
    const first = await redis();
    await expect(redis({ dir: join(dir, 'other'), port: first.port })).rejects.toThrow(
      /Address already in use/,
    );
  });

  test('a server that an earlier start left behind is stopped before its directory is used again', async () => {
    const leftBehind = await redis();
    await command(leftBehind.url, 'set', 'kept', '1');
    const next = await redis();
    expect(await leftBehind.exited).toBe('exit code 0');
    expect(await command(next.url, 'get', 'kept')).toBe('1');
  });
});

describe('the watchdog', () => {
  test('no server outlives a process that was killed with -9', async () => {
    const code = `
      import { startRedis } from '#scripts/embedded/redis.ts';
      import { startPostgres } from '#scripts/embedded/postgres.ts';
      const log = () => {};
      const redis = await startRedis({ dir: process.env.DIR + '/redis', log });
      const postgres = await startPostgres({ dir: process.env.DIR + '/postgres', log, durable: false });
      process.stdout.write(JSON.stringify([redis.pid, postgres.pid]));
      setInterval(() => {}, 1000);
    `;
    const starter = spawn(process.execPath, ['--input-type=module-typescript', '--eval', code], {
      env: { ...process.env, DIR: dir },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const text = await new Promise<string>((resolve) =>
      starter.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString())),
    );
    const servers = z
      .array(z.number())
      .parse(JSON.parse(text))
      .map((pid) => identifyProcess(pid));
    expect(servers.every((server) => server !== undefined && isRunning(server))).toBe(true);
    starter.kill('SIGKILL');
    await waitFor(
      () => (servers.some((server) => server !== undefined && isRunning(server)) ? undefined : true),
      {
        what: 'the servers to be gone',
      },
    );
    // In order, not by SIGKILL.
    expect(existsSync(join(dir, 'postgres', 'data', 'postmaster.pid'))).toBe(false);
  });
});

describe('findRedisServer', () => {
  test('reads the versions of Redis and Valkey', () => {
    expect(isNewEnough('Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64')).toBe(true);
    expect(isNewEnough('Valkey server v=8.0.1 sha=00000000:0')).toBe(true);
    expect(isNewEnough('Redis server v=6.2.0 sha=00000000:0')).toBe(true);
    expect(isNewEnough('Redis server v=6.0.16 sha=00000000:0')).toBe(false);
    expect(isNewEnough('something else')).toBe(false);
  });

  test('takes a valkey-server from the PATH', async () => {
    const redisServer = await findRedisServer({ log: () => undefined });
    if (redisServer.type !== 'program') throw new Error('This test needs a redis-server on the PATH.');
    symlinkSync(redisServer.path, join(dir, 'valkey-server'));
    expect(await findRedisServer({ log: () => undefined, path: dir })).toEqual({
      type: 'program',
      path: join(dir, 'valkey-server'),
    });
    expect(readdirSync(dir)).toEqual(['valkey-server']);
  });
});

async function postgres(options: { dir?: string; port?: number } = {}): Promise<PostgresServer> {
  const server = await startPostgres({ dir, log: () => undefined, ...options });
  running.add(server);
  return server;
}

async function redis(options: { dir?: string; port?: number } = {}): Promise<RedisServer> {
  const server = await startRedis({ dir: join(dir, 'redis'), log: () => undefined, ...options });
  running.add(server);
  return server;
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}

async function command(url: string, name: string, ...args: string[]): Promise<unknown> {
  const client = new Redis(url, { lazyConnect: true, enableReadyCheck: false, retryStrategy: () => null });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return await client.call(name, ...args);
  } finally {
    client.disconnect();
  }
}
