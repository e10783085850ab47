/** The whole service on servers of its own, every connection through a proxy that can break it. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  startOwnPostgres,
  startOwnRedis,
  type OwnPostgres,
  type OwnRedis,
} from '#test/support/breakable-servers.ts';
import { startFaultProxy, type FaultProxy } from '#test/support/fault-proxy.ts';
import { startService, testKey, type ServiceWorld } from '#test/support/service.ts';
import type { History } from './history.ts';
import { startReceivers, type Receivers } from './receivers.ts';
import { supervise, type Supervised } from './supervised.ts';

export interface Cluster {
  /** As the processes would see it without proxies. */
  readonly world: ServiceWorld;
  readonly postgres: OwnPostgres;
  readonly redis: OwnRedis;
  readonly postgresProxy: FaultProxy;
  readonly redisProxy: FaultProxy;
  readonly apis: readonly Api[];
  readonly workers: readonly Supervised[];
  readonly receivers: Receivers;
  readonly leaseMs: number;
  /** Most child processes of a worker. */
  readonly taskHostsMax: number;
  /** Moves the wall clock of a process that is ready. */
  shiftClock(process: Supervised, offsetMs: number): void;
  /** Ends what is left, by force. */
  dispose(): Promise<void>;
}

export interface Api {
  readonly process: Supervised;
  /** Between clients and this api; its address stays when the api gets another port. */
  readonly proxy: FaultProxy;
  readonly url: string;
}

export const leaseMs = 3_000;
const taskHosts = 2;
/** A task host that is being ended, and the one that takes its place. */
const taskHostsMax = 2 * taskHosts;

export async function startCluster(options: {
  dir: string;
  apis: number;
  workers: number;
  history: History;
}): Promise<Cluster> {
  const { dir, history } = options;
  const cleanUps: (() => Promise<unknown>)[] = [];
  const dispose = async () => {
    for (const cleanUp of cleanUps.toReversed()) await cleanUp().catch(() => {});
  };
  try {
    const dataDir = join(dir, 'data');
    mkdirSync(dataDir);
    chmodSync(dataDir, 0o711);
    const [postgres, redis] = await Promise.all([
      startOwnPostgres(join(dir, 'postgres')),
      startOwnRedis(join(dir, 'redis')),
    ]);
    cleanUps.push(
      () => postgres.dispose(),
      () => redis.dispose(),
    );
    const postgresProxy = await startFaultProxy(postgres.port);
    const redisProxy = await startFaultProxy(redis.port);
    const receivers = await startReceivers();
    cleanUps.push(
      () => postgresProxy.close(),
      () => redisProxy.close(),
      () => receivers.close(),
    );
    const world: ServiceWorld = {
      databaseUrl: postgres.url,
      redisUrl: redis.url,
      redisPrefix: 'torture',
      dataDir,
    };
    const proxied = {
      ...world,
      databaseUrl: postgresProxy.url(world.databaseUrl),
      redisUrl: redisProxy.url(world.redisUrl),
    };
    const env = (name: string) => ({
      WINDLASS_LEASE_MS: String(leaseMs),
      WINDLASS_QUEUES: `noop:10,host:${taskHosts},effect:8,email:5,limited:5,workflow:2`,
      SMTP_URL: receivers.smtpUrl,
      LOG_LEVEL: 'info',
      WINDLASS_TEST_CLOCK: clockFile(dir, name),
      NODE_OPTIONS: `--import=${new URL('./shift-clock.ts', import.meta.url).href}`,
    });

    const supervised = (
      name: string,
      main: 'api' | 'worker',
      onReady: (port: number) => void,
      more: Readonly<Record<string, string>>,
    ) => {
      const process = supervise({
        name,
        start: () => startService(`${main}/main.ts`, proxied, { ...env(name), ...more }),
        onReady: ({ port }) => onReady(port ?? 0),
        history,
      });
      cleanUps.push(async () => {
        if (process.current().isRunning()) process.current().signal('SIGCONT');
        const stopped = process.stop();
        await process.kill('SIGKILL');
        await stopped;
      });
      return process;
    };
    const apis: Api[] = [];
    for (let number = 1; number <= options.apis; number += 1) {
      // Port 1 refuses until the api has said where it listens.
      const proxy = await startFaultProxy(1);
      cleanUps.push(() => proxy.close());
      const process = supervised(`api-${number}`, 'api', (port) => proxy.switchTo(port), { PORT: '0' });
      apis.push({ process, proxy, url: proxy.url('http://127.0.0.1').replace(/\/$/, '') });
    }
    const workers = Array.from({ length: options.workers }, (_, index) =>
      // Every other one feeds in bundles, however slowly the jobs are taken.
      supervised(
        `worker-${index + 1}`,
        'worker',
        () => undefined,
        index % 2 === 0 ? { BUNDLE_SIZE: '5' } : {},
      ),
    );
    return {
      world,
      postgres,
      redis,
      postgresProxy,
      redisProxy,
      apis,
      workers,
      receivers,
      leaseMs,
      taskHostsMax,
      shiftClock(process, offsetMs) {
        writeFileSync(clockFile(dir, process.name), String(offsetMs));
        process.current().signal('SIGUSR2');
      },
      dispose,
    };
  } catch (err) {
    await dispose();
    throw err;
  }
}

/** The key of the first tenant. */
export const adminKey = testKey;

function clockFile(dir: string, name: string): string {
  return join(dir, `clock-${name}`);
}
