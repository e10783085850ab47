/** Docker and Compose as the machine has them: Compose 2 as a plugin, or 1.29 as a program of its own. */
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../', import.meta.url));

export interface Answer {
  readonly code: number | null;
  /** What was printed, both streams. */
  readonly output: string;
}

/** BuildKit is the default of newer engines, and has to be asked for in older ones. */
const env = {
  ...process.env,
  DOCKER_BUILDKIT: '1',
  COMPOSE_DOCKER_CLI_BUILD: '1',
  COMPOSE_PROGRESS: 'plain',
};

/** Runs a program to its end. Its output is returned whatever came of it. */
export function run(
  command: readonly string[],
  options: { env?: Record<string, string> } = {},
): Promise<Answer> {
  const [program = '', ...args] = command;
  const child = spawn(program, args, {
    cwd: root,
    env: { ...env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  return new Promise((resolve) => {
    child.once('error', (err) => resolve({ code: null, output: String(err) }));
    child.once('close', (code) => resolve({ code, output }));
  });
}

/** @returns what was printed, trimmed. @throws Error with all of it when the program fails. */
export async function runOrThrow(
  command: readonly string[],
  options: { env?: Record<string, string> } = {},
): Promise<string> {
  const { code, output } = await run(command, options);
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}:\n${output.slice(-4_000)}`);
  return output.trim();
}

/** Why no container can be started here; undefined when it can. */
export function findEngineProblem(): string | undefined {
  const { status, stderr, error } = spawnSync('docker', ['version', '--format', '{{.Server.Version}}'], {
    encoding: 'utf8',
    timeout: 10_000,
  });
  if (error !== undefined) return `no docker program (${error.message})`;
  return status === 0 ? undefined : `no Docker engine answers (${stderr.trim().split('\n').at(-1)})`;
}

/** The command of Compose; undefined when there is none. */
export function findCompose(): readonly string[] | undefined {
  const candidates = [['docker', 'compose'], ['docker-compose']];
  return candidates.find(
    ([program = '', ...args]) =>
      spawnSync(program, [...args, 'version'], { env, timeout: 10_000 }).status === 0,
  );
}

/** Built in up to Docker 22, the plugin buildx from 23 on: the Dockerfiles need it. */
export function hasBuildKit(): boolean {
  if (spawnSync('docker', ['buildx', 'version'], { timeout: 10_000 }).status === 0) return true;
  const { stdout } = spawnSync('docker', ['--version'], { encoding: 'utf8', timeout: 10_000 });
  return Number(/version (\d+)/.exec(stdout)?.[1] ?? 99) < 23;
}

export function hasImage(name: string): boolean {
  return spawnSync('docker', ['image', 'inspect', name], { timeout: 10_000 }).status === 0;
}

/** The images of others that docker-compose.yml and the Dockerfiles name. */
export function namedImages(): string[] {
  const compose = readFileSync(`${root}docker-compose.yml`, 'utf8').matchAll(
    /^\s+image: ([\w./-]+:[\w.-]+)$/gm,
  );
  const bases = ['Dockerfile.api', 'Dockerfile.worker'].flatMap((file) => [
    ...readFileSync(root + file, 'utf8').matchAll(/^ARG NODE_IMAGE=(\S+)$/gm),
  ]);
  return [...new Set([...compose, ...bases].map(([, name = '']) => name))];
}
