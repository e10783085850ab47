/** The api process: wiring only, top to bottom in start order; the lifecycle stops it in reverse. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { readConfig } from '#shared/config.ts';
import { armCrashPoint } from '#shared/crash-point.ts';
import { createFindReplay } from '#shared/db/find-replay.ts';
import { ensureQueues, setQueueRates } from '#shared/db/feed-queues.ts';
import { insertFirstKey } from '#shared/db/api-keys.ts';
import { migrate } from '#shared/db/migrate.ts';
import { createDb, createHotDb } from '#shared/db/pool.ts';
import { acceptConnectionsMax, createAcceptAnyJobs } from '#shared/db/unique-jobs.ts';
import { createLifecycle } from '#shared/lifecycle.ts';
import { createLogger } from '#shared/log.ts';
import {
  createProducerConnection,
  createSubscriberConnection,
  watchRedisState,
} from '#shared/queue/connections.ts';
import { createDeliveries } from '#shared/queue/deliveries.ts';
import { createDispatcher } from '#shared/queue/dispatcher.ts';
import { createSignalPublisher, listenForSignal } from '#shared/queue/signals.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { loadTasks } from '#shared/tasks/load-tasks.ts';
import { findQueueRates } from '#shared/tasks/queue-rates.ts';
import { builtInTasks } from '#tasks/index.ts';
import { createApp } from './app.ts';
import { createAuthenticate, makeKey } from './http/authenticate.ts';
import { createBacklog } from './http/backlog.ts';
import { answerClientErrors } from './http/client-errors.ts';
import { createMessages } from './http/express-messages.ts';
import { oneAtATime } from './http/one-at-a-time.ts';
import { createRateLimiter } from './http/rate-limit.ts';
import { createReadBatch, createReadJson } from './http/read-json.ts';
import { createTenantQuotas } from './http/tenant-quotas.ts';
import { createUploads, uploadLimits } from './http/upload.ts';
import { createJobWaiter } from './job-waiter.ts';
import { createSearchTurns } from './search-turns.ts';
import { createTaskCatalog } from './task-catalog.ts';

// What `node --disable-proto=delete` does: no client's key can reach a prototype.
Reflect.deleteProperty(Object.prototype, '__proto__');

const config = readConfig();
armCrashPoint(config.CRASH_AT);
const log = createLogger({ service: 'api', level: config.LOG_LEVEL });
const lifecycle = createLifecycle({ log, deadlineMs: config.WINDLASS_GRACE_MS });

const loaded = await loadTasks(builtInTasks, config.WINDLASS_TASKS_DIR);
const tasks = createTaskCatalog(loaded);

await migrate(config.DATABASE_URL);
const database = {
  url: config.DATABASE_URL,
  timeoutMs: config.WINDLASS_DB_TIMEOUT_MS,
  name: 'windlass-api',
};
const db = createDb({ ...database, size: config.WINDLASS_DB_POOL });
// Its own connections, so that accepting never waits behind searches.
const acceptDb = createHotDb({ ...database, size: acceptConnectionsMax });
const checkDb = createDb({ ...database, size: 1 });
lifecycle.onStop('postgres', async () => {
  await Promise.all([db.end(), acceptDb.end(), checkDb.end()]);
});
const definitions = [...loaded.values()].map((task) => task.definition);
await ensureQueues(db, [...new Set(definitions.map((task) => task.queue))]);
await setQueueRates(db, findQueueRates(definitions));
await makeFirstKey();

const redis = createProducerConnection(config.REDIS_URL, log);
const subscriber = createSubscriberConnection(config.REDIS_URL, log);
const deliveries = createDeliveries({ redis, prefix: config.REDIS_PREFIX });
lifecycle.onStop('redis', () => {
  subscriber.disconnect();
  deliveries.close();
});
const waiter = createJobWaiter({ db });
// Not awaited: the api starts, and accepts, without Redis.
listenForSignal({
  redis: subscriber,
  prefix: config.REDIS_PREFIX,
  channel: 'ended',
  listener: (jobId) => waiter.notify(jobId),
  log,
});

const dataDir = resolve(config.WINDLASS_DATA_DIR);
await mkdir(dataDir, { recursive: true });
const backlog = createBacklog({ db, max: config.WINDLASS_BACKLOG_MAX });
const quotas = createTenantQuotas({ db, limits: config });
const dispatcher = createDispatcher({ deliveries, log });
lifecycle.onStop('backlog', () => backlog.stop());
lifecycle.onStop('dispatcher', () => dispatcher.idle());

const storage = createFsStorage({ dir: join(dataDir, 'files') });
const app = createApp({
  config,
  log,
  db,
  checkDb,
  storage,
  tasks,
  accepts: createAcceptAnyJobs(acceptDb),
  replays: createFindReplay(db),
  dispatcher,
  signals: createSignalPublisher({ redis, prefix: config.REDIS_PREFIX }),
  waiter,
  searchTurns: createSearchTurns({
    atOnce: Math.max(1, Math.floor(config.WINDLASS_DB_POOL / 3)),
    waitingPerTenant: 100,
  }),
  readJson: createReadJson(config),
  readBatch: createReadBatch(config),
  authenticate: createAuthenticate({ db, isOff: config.WINDLASS_AUTH === 'off' }),
  rateLimiter: createRateLimiter(config.WINDLASS_RATE_PER_MINUTE),
  uploads: createUploads({ storage, quota: quotas.bytes, limits: uploadLimits(config) }),
  backlog,
  quotas,
  redisState: watchRedisState(redis, log),
  isStopping: () => lifecycle.stopping.aborted,
});

const headerBytesMax = 16 * 1024;
const server = createServer(
  {
    // Slow headers are cut off; slow bodies have rules of their own (api/http/upload.ts), because an honest upload over a
    // slow line may take longer than any fixed time.
    headersTimeout: 10_000,
    requestTimeout: 0,
    keepAliveTimeout: 65_000,
    maxHeaderSize: headerBytesMax,
    noDelay: true,
    ...createMessages(app),
  },
  oneAtATime(app),
);
answerClientErrors(server, { headerBytesMax, publicUrl: config.WINDLASS_PUBLIC_URL });
server.maxConnections = config.WINDLASS_CONNECTIONS_MAX;
server.listen(config.PORT, config.HOST);
await once(server, 'listening');
lifecycle.onStop('http', async (deadline) => {
  waiter.stop();
  const closed = once(server, 'close');
  server.close();
  server.closeIdleConnections();
  const idle = setInterval(() => server.closeIdleConnections(), 100);
  deadline.addEventListener('abort', () => server.closeAllConnections());
  await closed;
  clearInterval(idle);
});
const address = server.address();
const port = typeof address === 'object' && address !== null ? address.port : config.PORT;
log.info({ host: config.HOST, port, tasks: [...tasks.keys()], auth: config.WINDLASS_AUTH }, 'api ready');
process.send?.({ ready: true, port });

/** The first key of a new database is shown once, here; WINDLASS_API_KEY sets it instead and is not shown. */
async function makeFirstKey(): Promise<void> {
  const given = config.WINDLASS_API_KEY;
  const { secret, row } = makeKey({
    tenantId: 'default',
    name: 'first admin key',
    scopes: ['admin'],
    ...(given !== undefined && { secret: given }),
  });
  if ((await insertFirstKey(db, row)) && given === undefined) {
    // The one line in which a secret may appear; `npm start` shows it and keeps it out of the logs.
    log.warn({ adminKey: secret }, 'admin key created');
  }
}
