/**
 * A whole service for one fault test: its own world, its own servers where the test breaks them, an api, and as many
 * workers as the test starts. When the test has done its part, everything is stopped in order and the history is held
 * against the invariants.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { vi } from 'vitest';
import { createDb, type Db } from '#shared/db/pool.ts';
import { checkHistory } from './check-history.ts';
import { findLogProblems, parseLine } from './check-log.ts';
import { startFaultProxy, type FaultProxy } from './fault-proxy.ts';
import { ownPostgres, ownRedis, type OwnPostgres, type OwnRedis } from './own-servers.ts';
import {
  createClient,
  startApi,
  startUnready,
  startWorker,
  type ApiProcess,
  type ServiceProcess,
  type ServiceWorld,
  type TestJob,
} from './service.ts';
import { waitFor } from './wait-for.ts';
import { createWorld } from './world.ts';

// Each system is half a dozen processes: more at once would only take the processor from each other, and what a test
// waits for is served by all of them.
vi.setConfig({ maxConcurrency: 3 });

type Env = Readonly<Record<string, string>>;

export interface System {
  /** Without proxies, also where the processes get them. */
  readonly world: ServiceWorld;
  readonly api: ApiProcess;
  readonly client: ReturnType<typeof createClient>;
  /** For looking at the record; never goes through a proxy. */
  readonly db: Db;
  /** An empty directory in which tasks leave marks; not part of the data directory. */
  readonly marks: string;
  /** Ids of accepted jobs: the history must hold all of them. `submit` adds to it. */
  readonly accepted: string[];
  /** Queues a job. @throws Error unless it was accepted. */
  submit(task: string, input?: unknown, options?: unknown): Promise<string>;
  /** Queues a job whose handler leaves a mark and then waits for `openGate`. Default task: test.sleep. */
  submitGated(task?: string, input?: Readonly<Record<string, unknown>>, options?: unknown): Promise<string>;
  openGate(): void;
  closeGate(): void;
  /** Waits until a handler of each job has begun. @returns for each, the pids of all that have so far. */
  started(ids: readonly string[]): Promise<number[][]>;
  /** Waits for the end of these jobs, or of all that were accepted. */
  finished(ids?: readonly string[]): Promise<TestJob[]>;
  startApi(env?: Env): Promise<ApiProcess>;
  startWorker(env?: Env): Promise<ServiceProcess>;
  /** Done after everything else has ended and was checked. */
  onEnd(cleanUp: () => unknown): void;
  /** A worker that is expected to die before it says that it is ready. */
  startUnreadyWorker(env?: Env): ServiceProcess;
}

export interface Servers {
  readonly redis: OwnRedis;
  readonly postgres: OwnPostgres;
}

/** Short enough for quick tests, long enough for a busy machine. */
const leaseMs = 3_000;

/**
 * @param options.own which servers the test has for itself. Default: none.
 * @param options.proxied which servers the processes reach through a fault proxy. Default: none.
 * @param options.env for all processes.
 * @throws Error with the last log lines of all processes, when `work` fails or an invariant does not hold.
 */
export async function withSystem<Own extends keyof Servers = never, Proxied extends keyof Servers = never>(
  options: { own?: readonly Own[]; proxied?: readonly Proxied[]; env?: Env },
  work: (
    system: System,
    servers: Pick<Servers, Own>,
    proxies: Readonly<Record<Proxied, FaultProxy>>,
  ) => Promise<void>,
): Promise<void> {
  const processes: { name: string; process: ServiceProcess }[] = [];
  const cleanUps: (() => Promise<void>)[] = [];
  let hasFailed = true;
  try {
    const base = await createWorld();
    cleanUps.push(() => base.dispose());
    const marks = `${base.dataDir}-marks`;
    mkdirSync(marks, { mode: 0o777 });
    cleanUps.push(async () => rmSync(marks, { recursive: true }));
    const servers = await startOwn(options.own ?? [], cleanUps);
    const direct: ServiceWorld = {
      ...base,
      ...(servers.postgres !== undefined && { databaseUrl: servers.postgres.url }),
      ...(servers.redis !== undefined && { redisUrl: servers.redis.url }),
    };
    const proxies = await startProxies(direct, options.proxied ?? [], cleanUps);
    const world: ServiceWorld = {
      ...direct,
      ...(proxies.postgres !== undefined && { databaseUrl: proxies.postgres.url(direct.databaseUrl) }),
      ...(proxies.redis !== undefined && { redisUrl: proxies.redis.url(direct.redisUrl) }),
    };
    const db = createDb({ url: direct.databaseUrl, size: 2, timeoutMs: 10_000, name: 'fault-test' });
    cleanUps.push(() => db.end());

    const started = <Process extends ServiceProcess>(name: string, process: Process): Process => {
      processes.push({ name, process });
      return process;
    };
    const env = { WINDLASS_LEASE_MS: String(leaseMs), ...options.env };
    const api = started('api', await startApi(world, env));
    const client = createClient(api.url);
    const accepted: string[] = [];
    const submit: System['submit'] = async (task, input, jobOptions) => {
      const id = await client.submit(task, input, jobOptions);
      accepted.push(id);
      return id;
    };
    await work(
      {
        world: direct,
        api,
        client,
        db,
        marks,
        accepted,
        submit,
        submitGated: (task = 'test.sleep', input, jobOptions) =>
          submit(task, { dir: marks, until: gate, ...input }, jobOptions),
        openGate: () => writeFileSync(join(marks, gate), ''),
        closeGate: () => rmSync(join(marks, gate)),
        started: (ids) => waitUntilStarted(marks, ids),
        onEnd: (cleanUp) => cleanUps.push(async () => void (await cleanUp())),
        finished: (ids) => Promise.all((ids ?? accepted).map((id) => client.finished(id))),
        startApi: async (more) => started('api', await startApi(world, { ...env, ...more })),
        startWorker: async (more) => started('worker', await startWorker(world, { ...env, ...more })),
        startUnreadyWorker: (more) =>
          started('worker', startUnready('worker/main.ts', world, { ...env, ...more })),
      },
      // They hold every key of Own and of Proxied, because those were started.
      servers as Pick<Servers, Own>,
      proxies as Record<Proxied, FaultProxy>,
    );

    await Promise.all(processes.map(({ process }) => process.kill('SIGTERM')));
    const problems = processes.flatMap(({ name, process }) => findLogProblems(name, process.lines));
    if (problems.length > 0) throw new Error(problems.join('\n'));
    await checkHistory(direct, accepted);
    hasFailed = false;
  } catch (err) {
    for (const { process } of processes) {
      if (process.isRunning()) process.signal('SIGCONT');
      await process.kill('SIGKILL');
    }
    throw withLogs(err, processes);
  } finally {
    for (const cleanUp of cleanUps.toReversed()) {
      await cleanUp().catch((err: unknown) => {
        // After a failure, what could not be cleaned up is not the news.
        if (!hasFailed) throw err;
      });
    }
  }
}

async function startOwn(
  names: readonly (keyof Servers)[],
  cleanUps: (() => Promise<void>)[],
): Promise<Partial<Servers>> {
  const [redis, postgres] = await Promise.all([
    names.includes('redis') ? ownRedis() : undefined,
    names.includes('postgres') ? ownPostgres() : undefined,
  ]);
  for (const server of [redis, postgres]) if (server !== undefined) cleanUps.push(() => server.dispose());
  return { ...(redis !== undefined && { redis }), ...(postgres !== undefined && { postgres }) };
}

async function startProxies(
  world: ServiceWorld,
  names: readonly (keyof Servers)[],
  cleanUps: (() => Promise<void>)[],
): Promise<Partial<Record<keyof Servers, FaultProxy>>> {
  const proxies: Partial<Record<keyof Servers, FaultProxy>> = {};
  for (const name of names) {
    const proxy = await startFaultProxy(
      Number(new URL(name === 'redis' ? world.redisUrl : world.databaseUrl).port),
    );
    cleanUps.push(() => proxy.close());
    proxies[name] = proxy;
  }
  return proxies;
}

const gate = 'open';

/** Handlers of the test tasks leave `started-<job id>…` with their pid in it. */
function waitUntilStarted(marks: string, ids: readonly string[]): Promise<number[][]> {
  return waitFor(
    () => {
      const names = readdirSync(marks);
      const pids = ids.map((id) =>
        names
          .filter((name) => name.startsWith(`started-${id}`))
          .map((name) => Number(readFileSync(join(marks, name), 'utf8'))),
      );
      // A file is there a moment before what it says.
      return pids.every((group) => group.length > 0 && group.every((pid) => pid > 0)) ? pids : undefined;
    },
    { what: 'handlers of all jobs to begin', seen: () => readdirSync(marks) },
  );
}

function withLogs(err: unknown, processes: readonly { name: string; process: ServiceProcess }[]): Error {
  const logs = processes.map(({ name, process }) => {
    const lines = process.lines
      .filter((line) => (parseLine(line)?.level ?? 60) > 20)
      .map((line) => line.slice(0, 600));
    return `--- ${name} ${process.pid}\n${lines.slice(-15).join('\n')}`;
  });
  const message = err instanceof Error ? err.message : String(err);
  return new Error(`${message}\n${logs.join('\n')}`, { cause: err });
}
