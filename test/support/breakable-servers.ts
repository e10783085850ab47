/** Servers to be broken. Where there is no vitest, too; inside it, own-servers.ts gives each test its own. */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { startPostgres } from '#scripts/embedded/postgres.ts';
import { startRedis } from '#scripts/embedded/redis.ts';
import { migrate } from '#shared/db/migrate.ts';

/** A server that belongs to one test, to be broken. Its URL stays the same through every restart. */
export interface OwnServer {
  readonly url: string;
  readonly port: number;
  /** Of the process that runs now. */
  readonly pid: number;
  /** Sends a signal and waits until it is gone. Default: SIGKILL. SIGQUIT is what Postgres calls an immediate stop. */
  kill(signal?: 'SIGKILL' | 'SIGQUIT'): Promise<void>;
  /** SIGSTOP: connections stay open and nothing is answered any more. */
  freeze(): void;
  /** SIGCONT. */
  thaw(): void;
  /** Asks it to end and waits: connections are closed, data is on disk. */
  stop(): Promise<void>;
  /** Starts it again on its port with its data, after `kill` or `stop`; waits until it answers. */
  start(): Promise<void>;
  /** Stops it for good; its directory is left to the caller. */
  dispose(): Promise<void>;
}

/** A Redis that can be emptied, too. DEBUG is allowed to local clients, for DEBUG SLEEP and RELOAD. */
export interface OwnRedis extends OwnServer {
  /** As `start`, but all it knew is gone, as after the loss of its disk. */
  startEmpty(): Promise<void>;
}

export interface OwnPostgres extends OwnServer {
  /** The superuser's. */
  readonly adminUrl: string;
}

/** A migrated Postgres. */
export async function startOwnPostgres(dir: string): Promise<OwnPostgres> {
  const log = () => undefined;
  // A killed process loses nothing that the system's page cache holds: fsync would only cost time here.
  const first = await startPostgres({ dir, durable: false, log });
  await migrate(first.url);
  const { url, port } = first;
  const own = ownServer(first, () => startPostgres({ dir, durable: false, log, port }));
  return Object.assign(own, { url, port, adminUrl: first.adminUrl });
}

export async function startOwnRedis(dir: string): Promise<OwnRedis> {
  const options = { dir, log: () => undefined, settings: ['enable-debug-command local'] };
  const first = await startRedis(options);
  const { url, port } = first;
  const { password } = new URL(url);
  const own = ownServer(first, () => startRedis({ ...options, port, password }));
  return Object.assign(own, {
    url,
    port,
    async startEmpty() {
      rmSync(join(dir, 'appendonlydir'), { recursive: true, force: true });
      await own.start();
    },
  });
}

interface StartedServer {
  readonly pid: number;
  readonly exited: Promise<string>;
  stop(): Promise<void>;
}

function ownServer(first: StartedServer, start: () => Promise<StartedServer>) {
  let server = first;
  return {
    get pid() {
      return server.pid;
    },
    async kill(signal: 'SIGKILL' | 'SIGQUIT' = 'SIGKILL') {
      // A frozen child of Postgres would never notice that its parent is gone.
      signalTree(server.pid, 'SIGCONT');
      process.kill(server.pid, signal);
      await server.exited;
    },
    freeze: () => signalTree(server.pid, 'SIGSTOP'),
    thaw: () => signalTree(server.pid, 'SIGCONT'),
    stop: () => server.stop(),
    async start() {
      server = await start();
    },
    async dispose() {
      signalTree(server.pid, 'SIGCONT');
      await server.stop();
    },
  };
}

/** Postgres has a process per connection, each in a session of its own, so a signal to the group does not do. */
function signalTree(pid: number, signal: 'SIGSTOP' | 'SIGCONT'): void {
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' });
  const rows = table
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number));
  const children = rows.filter(([, parent]) => parent === pid).map(([child]) => child);
  for (const target of [pid, ...children]) {
    try {
      if (target !== undefined) process.kill(target, signal);
    } catch {
      continue; // It ended in the meantime.
    }
  }
}
