/** The real api in this process, on a world of its own: for route tests. No worker runs; jobs stay as they were accepted. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createApp } from '#api/app.ts';
import type { ApiDeps } from '#api/deps.ts';
import { createAuthenticate, makeKey } from '#api/http/authenticate.ts';
import { createBacklog } from '#api/http/backlog.ts';
import { createRateLimiter } from '#api/http/rate-limit.ts';
import { createMessages } from '#api/http/express-messages.ts';
import { createReadBatch, createReadJson } from '#api/http/read-json.ts';
import { createTenantQuotas } from '#api/http/tenant-quotas.ts';
import { createUploads, uploadLimits } from '#api/http/upload.ts';
import { createJobWaiter } from '#api/job-waiter.ts';
import { createSearchTurns } from '#api/search-turns.ts';
import { createTaskCatalog } from '#api/task-catalog.ts';
import { readConfig } from '#shared/config.ts';
import { insertKey, type Scope } from '#shared/db/api-keys.ts';
import { createFindReplay } from '#shared/db/find-replay.ts';
import { ensureQueues, setQueueRates } from '#shared/db/feed-queues.ts';
import { createDb, type Db } from '#shared/db/pool.ts';
import { createAcceptAnyJobs } from '#shared/db/unique-jobs.ts';
import { createLogger } from '#shared/log.ts';
import { createProducerConnection, watchRedisState } from '#shared/queue/connections.ts';
import { createDeliveries } from '#shared/queue/deliveries.ts';
import { createDispatcher } from '#shared/queue/dispatcher.ts';
import { createSignalPublisher } from '#shared/queue/signals.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { loadTasks } from '#shared/tasks/load-tasks.ts';
import { findQueueRates } from '#shared/tasks/queue-rates.ts';
import { builtInTasks } from '#tasks/index.ts';
import { createClient, testTasksDir } from './service.ts';
import { createWorld } from './world.ts';

export interface TestApi {
  readonly url: string;
  readonly db: Db;
  readonly deps: ApiDeps;
  /** A client with an admin key of the tenant `default`. */
  readonly admin: TestClient;
  /** A client with a new key. Default scopes: all but admin. */
  client(options?: { tenantId?: string; scopes?: readonly Scope[] }): Promise<TestClient>;
  dispose(): Promise<void>;
}

export type TestClient = ReturnType<typeof createClient> & { readonly key: string };

/** @param env overrides of the configuration. */
export async function createTestApi(env: Readonly<Record<string, string>> = {}): Promise<TestApi> {
  const world = await createWorld();
  const config = readConfig({
    DATABASE_URL: world.databaseUrl,
    REDIS_URL: world.redisUrl,
    REDIS_PREFIX: world.redisPrefix,
    WINDLASS_DATA_DIR: world.dataDir,
    LOG_LEVEL: 'silent',
    ...env,
  });
  const log = createLogger({ service: 'api', level: config.LOG_LEVEL });
  const loaded = await loadTasks(builtInTasks, testTasksDir);
  const db = createDb({ url: world.databaseUrl, size: 4, timeoutMs: 5_000, name: 'test-api' });
  const definitions = [...loaded.values()].map((task) => task.definition);
  await ensureQueues(db, [...new Set(definitions.map((task) => task.queue))]);
  await setQueueRates(db, findQueueRates(definitions));
  const redis = createProducerConnection(config.REDIS_URL, log);
  const deliveries = createDeliveries({ redis, prefix: config.REDIS_PREFIX });
  const dispatcher = createDispatcher({ deliveries, log });
  const waiter = createJobWaiter({ db });
  const backlog = createBacklog({ db, max: config.WINDLASS_BACKLOG_MAX });
  const quotas = createTenantQuotas({ db, limits: config });

  const storage = createFsStorage({ dir: join(world.dataDir, 'files') });
  const deps: ApiDeps = {
    config,
    log,
    db,
    checkDb: db,
    storage,
    tasks: createTaskCatalog(loaded),
    accepts: createAcceptAnyJobs(db),
    replays: createFindReplay(db),
    dispatcher,
    signals: createSignalPublisher({ redis, prefix: config.REDIS_PREFIX }),
    waiter,
    searchTurns: createSearchTurns({ atOnce: 1, waitingPerTenant: 100 }),
    readJson: createReadJson(config),
    readBatch: createReadBatch(config),
    authenticate: createAuthenticate({ db, isOff: config.WINDLASS_AUTH === 'off' }),
    rateLimiter: createRateLimiter(config.WINDLASS_RATE_PER_MINUTE),
    uploads: createUploads({ storage, quota: quotas.bytes, limits: uploadLimits(config) }),
    backlog,
    quotas,
    redisState: watchRedisState(redis, log),
    isStopping: () => false,
  };
  const app = createApp(deps);
  const server = createServer(createMessages(app), app).listen(0, '127.0.0.1');
  await once(server, 'listening');
  // A TCP server that listens has an address with a port.
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  async function client(options: { tenantId?: string; scopes?: readonly Scope[] } = {}): Promise<TestClient> {
    const { tenantId = 'default', scopes = ['submit', 'read', 'operate'] } = options;
    const { secret, row } = makeKey({ tenantId, name: 'test', scopes });
    await insertKey(db, row);
    return { ...createClient(url, secret), key: secret };
  }

  return {
    url,
    db,
    deps,
    admin: await client({ scopes: ['admin'] }),
    client,
    async dispose() {
      waiter.stop();
      backlog.stop();
      server.close();
      server.closeAllConnections();
      await dispatcher.idle();
      deliveries.close();
      await db.end();
      await world.dispose();
    },
  };
}
