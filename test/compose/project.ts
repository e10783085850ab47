import { randomBytes, randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { findListenProblem } from '#scripts/embedded/free-port.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { run, runOrThrow, type Answer } from './docker.ts';

/** What `docker inspect` says, as far as tests look at it. */
export interface Container {
  readonly Config: { readonly User: string; readonly Env: readonly string[] };
  readonly State: {
    readonly Status: string;
    readonly ExitCode: number;
    readonly Health?: { readonly Status: string };
  };
  readonly HostConfig: {
    readonly CapAdd: readonly string[] | null;
    readonly CapDrop: readonly string[] | null;
    readonly ReadonlyRootfs: boolean;
    readonly SecurityOpt: readonly string[];
    readonly PidsLimit: number;
    readonly Memory: number;
    readonly Init: boolean | null;
    readonly Privileged: boolean;
    readonly PortBindings: Readonly<Record<string, readonly { HostIp: string; HostPort: string }[]>>;
  };
}

/** docker-compose.yml under a name of its own: its own containers, networks and volumes. */
export interface Project {
  readonly url: string;
  readonly mailUrl: string;
  compose(...args: string[]): Promise<string>;
  /** Ids of the containers of a service, stopped ones too, oldest first. */
  containers(service: string): Promise<string[]>;
  inspect(id: string): Promise<Container>;
  /** Runs a shell script in a container. */
  exec(id: string, script: string): Promise<Answer>;
  /** @throws Error when they are not healthy in the end. */
  waitForHealth(...services: string[]): Promise<void>;
  /** Takes containers, networks and volumes away. */
  remove(): Promise<void>;
}

export async function createProject(
  compose: readonly string[],
  settings: Record<string, string>,
): Promise<Project> {
  const name = `windlass-test-${randomBytes(4).toString('hex')}`;
  const [port, mailPort] = [await lastingPort(), await lastingPort()];
  const env = {
    WINDLASS_API_IMAGE: 'windlass-api:compose-test',
    WINDLASS_WORKER_IMAGE: 'windlass-worker:compose-test',
    WINDLASS_PORT: String(port),
    WINDLASS_MAIL_PORT: String(mailPort),
    ...settings,
  };
  const command = [...compose, '--project-name', name, '--env-file', 'test/compose/no-settings.env'];
  const project: Project = {
    url: `http://127.0.0.1:${port}`,
    mailUrl: `http://127.0.0.1:${mailPort}`,
    compose: (...args) => runOrThrow([...command, ...args], { env }),
    async containers(service) {
      const filters = [
        `label=com.docker.compose.project=${name}`,
        `label=com.docker.compose.service=${service}`,
      ];
      const ids = await runOrThrow([
        'docker',
        'ps',
        '--all',
        '--quiet',
        '--no-trunc',
        ...filters.flatMap((filter) => ['--filter', filter]),
      ]);
      return ids
        .split('\n')
        .filter((id) => id !== '')
        .toReversed();
    },
    async inspect(id) {
      return (JSON.parse(await runOrThrow(['docker', 'inspect', id])) as [Container])[0];
    },
    exec: (id, script) => run(['docker', 'exec', id, 'sh', '-c', script]),
    async waitForHealth(...services) {
      let seen: string[] = [];
      await waitFor(
        async () => {
          const ids = (await Promise.all(services.map((service) => project.containers(service)))).flat();
          seen = await Promise.all(
            ids.map(async (id) => (await project.inspect(id)).State.Health?.Status ?? 'unknown'),
          );
          if (seen.every((status) => status === 'healthy')) return true;
          // Each look starts several processes, and what takes the processors makes nobody healthy.
          await sleep(1_000);
          return undefined;
        },
        { what: `${services.join(', ')} to be healthy`, deadlineMs: 300_000, seen: () => seen },
      );
    },
    async remove() {
      await runOrThrow([...command, 'down', '--volumes', '--remove-orphans', '--timeout', '5'], { env });
    },
  };
  return project;
}

/**
 * A free port that systems give to nobody who asks for any (Linux gives those from 32768 on): nobody has taken it when stopped
 * containers are started again.
 */
async function lastingPort(): Promise<number> {
  for (;;) {
    const port = randomInt(20_000, 30_000);
    if ((await findListenProblem(port, '127.0.0.1')) === undefined) return port;
  }
}
