import { execFile } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { installRedisWithApt } from './install-redis-with-apt.ts';

const run = promisify(execFile);

/** How a Redis can be had on this machine. */
export type RedisProgram =
  | { readonly type: 'program'; readonly path: string }
  | { readonly type: 'docker'; readonly image: string };

/** What BullMQ asks for; older ones lack commands that it uses. */
const oldestVersion = [6, 2] as const;
const dockerImage = 'redis:8-bookworm';

/**
 * Finds a Redis 6.2 or newer, or a Valkey: on the PATH; else, for root on Debian or Ubuntu, by installing the
 * distribution's package (announced through `log`); else through a Docker engine that answers.
 * @throws Error that says what to do on this platform when there is none.
 */
export async function findRedisServer(options: {
  log: (line: string) => void;
  path?: string;
}): Promise<RedisProgram> {
  const path = options.path ?? process.env['PATH'] ?? '';
  const onPath = await findOnPath(path, options.log);
  if (onPath !== undefined) return onPath;
  if (process.getuid?.() === 0 && findExecutable('apt-get', path) !== undefined) {
    options.log('Redis is not installed: installing the package redis-server, once');
    try {
      await installRedisWithApt();
      const installed = await findOnPath(path, options.log);
      if (installed !== undefined) return installed;
    } catch (err) {
      options.log(
        `installing redis-server did not work: ${err instanceof Error ? err.message : String(err)}`,
      );
    }
  }
  if (await isDockerThere()) return { type: 'docker', image: dockerImage };
  throw new Error(
    `No Redis was found. ${adviceFor(process.platform)} Or set REDIS_URL to one that runs elsewhere.`,
  );
}

async function findOnPath(path: string, log: (line: string) => void): Promise<RedisProgram | undefined> {
  for (const name of ['redis-server', 'valkey-server']) {
    const file = findExecutable(name, path);
    if (file === undefined) continue;
    const { stdout } = await run(file, ['--version']);
    if (isNewEnough(stdout)) return { type: 'program', path: file };
    log(`${file} is older than ${oldestVersion.join('.')} and is not used`);
  }
  return undefined;
}

/** Reads "Redis server v=7.0.15 sha=…" and "Valkey server v=8.0.1 sha=…"; a line it cannot read is not new enough. */
export function isNewEnough(versionLine: string): boolean {
  const match = /\bv=(\d+)\.(\d+)/.exec(versionLine);
  const [major, minor] = [Number(match?.[1]), Number(match?.[2])];
  return major > oldestVersion[0] || (major === oldestVersion[0] && minor >= oldestVersion[1]);
}

function findExecutable(name: string, path: string): string | undefined {
  for (const dir of path.split(delimiter)) {
    if (dir === '') continue;
    const file = join(dir, name);
    try {
      accessSync(file, constants.X_OK);
      if (statSync(file).isFile()) return file;
    } catch {
      continue;
    }
  }
  return undefined;
}

async function isDockerThere(): Promise<boolean> {
  try {
    await run('docker', ['version', '--format', '{{.Server.Version}}'], { timeout: 10_000 });
    return true;
  } catch {
    return false;
  }
}

function adviceFor(platform: NodeJS.Platform): string {
  if (platform === 'darwin') return 'Install it with `brew install redis`, or start Docker Desktop.';
  if (platform === 'win32') return 'Start Docker Desktop, or run Windlass inside WSL.';
  return (
    'Install version 6.2 or newer (Debian, Ubuntu: `sudo apt-get install redis-server`; Fedora: `sudo dnf install valkey`; ' +
    'Arch: `sudo pacman -S valkey`), or start Docker.'
  );
}
