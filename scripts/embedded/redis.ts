import { randomBytes } from 'node:crypto';
import { chownSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findRedisServer, type RedisProgram } from './find-redis-server.ts';
import { freePort } from './free-port.ts';
import type { OwnedProcess } from './owned-process.ts';
import { spawnServer, waitUntilReady, type ServerCommand } from './server-process.ts';
import { unprivilegedUser, type SystemUser } from './unprivileged-user.ts';

export interface RedisServer {
  /** With the password: every local user can reach a port on 127.0.0.1. */
  readonly url: string;
  readonly port: number;
  /** Of the server, or of the docker client that holds it. */
  readonly pid: number;
  /** Resolves with how it ended. */
  readonly exited: Promise<string>;
  /** Lets it write its data to disk and end, within `deadlineMs` (default 20 s). */
  stop(deadlineMs?: number): Promise<void>;
}

export interface RedisOptions {
  /** Where its data is; made when it is missing. The caller has it for itself: what still runs on it is stopped. */
  readonly dir: string;
  /** Default: a free one. */
  readonly port?: number;
  /** Default: a new one at every start. */
  readonly password?: string;
  /** Append-only file, fsynced every second. Default true. */
  readonly appendonly?: boolean;
  /** Further lines of redis.conf. */
  readonly settings?: readonly string[];
  readonly log: (line: string) => void;
  /** Default: what `findRedisServer` finds. */
  readonly program?: RedisProgram;
}

/**
 * Starts Redis on 127.0.0.1 and waits until it has loaded its data and answers.
 * @throws Error with Redis's own words when it cannot be started, or advice when there is none to start.
 */
export async function startRedis(options: RedisOptions): Promise<RedisServer> {
  const program = options.program ?? (await findRedisServer({ log: options.log }));
  const password = options.password ?? randomBytes(24).toString('base64url');
  const deadline = performance.now() + 30_000;
  for (;;) {
    const port = options.port ?? (await freePort());
    const server = await (program.type === 'docker' ? spawnInDocker : spawnProgram)({
      ...options,
      program,
      port,
      password,
    });
    try {
      await waitUntilReady(server, {
        name: 'Redis',
        attempt: () => answersPing(port, password),
        // The first start through Docker pulls the image.
        deadlineMs: program.type === 'docker' ? 300_000 : 60_000,
      });
      return {
        url: `redis://:${password}@127.0.0.1:${port}`,
        port,
        pid: server.pid,
        exited: server.exited,
        stop: (deadlineMs) => server.stop(deadlineMs),
      };
    } catch (err) {
      const isPortLost =
        options.port === undefined &&
        /Address already in use|port is already allocated/.test(server.lastOutput());
      if (!isPortLost || performance.now() > deadline) throw err;
      await sleep(100);
    }
  }
}

type RedisCommand = RedisOptions & {
  readonly program: RedisProgram;
  readonly port: number;
  readonly password: string;
};

async function spawnProgram(options: RedisCommand): Promise<OwnedProcess> {
  const user = await makeDirectory(options.dir);
  return await spawnServer({
    ...common(options),
    command: options.program.type === 'program' ? options.program.path : '',
    // The configuration comes through standard input: arguments can be read by every user of the machine.
    args: ['-'],
    input: configuration(options, { bind: '127.0.0.1', port: options.port }),
    user,
  });
}

/**
 * The container lives as long as its standard input is open, which the docker client holds for us: when the client or
 * this process is killed, Docker closes it.
 */
async function spawnInDocker(options: RedisCommand): Promise<OwnedProcess> {
  await makeDirectory(options.dir);
  const image = options.program.type === 'docker' ? options.program.image : '';
  const dir = resolve(options.dir);
  const { uid, gid } = statSync(dir);
  const configFile = join(dir, 'redis.conf');
  // Inside, all addresses: 127.0.0.1 is then the container's own. Outside, it is published on 127.0.0.1 only.
  writeFileSync(configFile, configuration(options, { bind: '0.0.0.0', port: 6379 }), { mode: 0o600 });
  chownSync(configFile, uid, gid);
  const containerOptions = [
    `--user=${uid}:${gid}`,
    `--publish=127.0.0.1:${options.port}:6379`,
    `--volume=${dir}:/data`,
    '--workdir=/data',
    '--entrypoint=sh',
  ];
  return await spawnServer({
    ...common(options),
    command: 'docker',
    args: ['run', '--rm', '--interactive', ...containerOptions, image, '-c', untilInputEnds],
    isInputHeld: true,
    user: undefined,
    env: dockerEnvironment(),
  });
}

// The shell is process 1, which ignores signals that it has no trap for; and a shell gives what it puts into the
// background no standard input, hence the descriptor 3.
const untilInputEnds =
  'exec 3<&0; redis-server /data/redis.conf & server=$!; trap "kill $server" TERM; { cat <&3 >/dev/null; kill $server; } & wait $server; wait $server';

/** The directory belongs to the server's user, with and without Docker, so that the one can follow the other. */
async function makeDirectory(dir: string): Promise<SystemUser | undefined> {
  const user = await unprivilegedUser();
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  if (user !== undefined) chownSync(dir, user.uid, user.gid);
  return user;
}

/** Which engine the client talks to, and with whose credentials. */
function dockerEnvironment(): Record<string, string> {
  const names = Object.keys(process.env).filter((name) => name === 'HOME' || name.startsWith('DOCKER_'));
  return Object.fromEntries(names.map((name) => [name, process.env[name] ?? '']));
}

function common({
  dir,
  log,
}: RedisCommand): Pick<ServerCommand, 'name' | 'cwd' | 'stopSignal' | 'pidFile' | 'log'> {
  return { name: 'Redis', cwd: dir, stopSignal: 'TERM', pidFile: join(resolve(dir), 'server.pid'), log };
}

/** No `dir`: Redis keeps its data in its working directory, which may lie below directories closed to it. */
function configuration(options: RedisCommand, { bind, port }: { bind: string; port: number }): string {
  const lines = [
    `bind ${bind}`,
    `port ${port}`,
    `requirepass ${options.password}`,
    `appendonly ${options.appendonly === false ? 'no' : 'yes'}`,
    'appendfsync everysec',
    // The append-only file is the copy on disk; snapshots beside it would only cost.
    'save ""',
    // Evicting a queue's keys would lose deliveries silently; running full is an error that is seen.
    'maxmemory-policy noeviction',
    ...(options.settings ?? []),
  ];
  return `${lines.join('\n')}\n`;
}

/** One round trip on a bare socket: a Redis client would go on reconnecting while the server is not there yet. */
async function answersPing(port: number, password: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    let answer = '';
    const finish = (isThere: boolean) => {
      socket.destroy();
      resolve(isThere);
    };
    socket.setTimeout(2_000, () => finish(false));
    socket.on('error', () => finish(false));
    socket.on('close', () => finish(false));
    socket.on('data', (chunk) => {
      answer += chunk.toString('latin1');
      if (answer.includes('+PONG')) finish(true);
      else if (answer.includes('\n-') || answer.startsWith('-')) finish(false);
    });
    socket.write(`AUTH ${password}\r\nPING\r\n`);
  });
}
