/**
 * The three kinds of Redis connection. They differ in what should happen when Redis is away, which is exactly what
 * a default cannot know (faults.md, R6 and R7: measured on BullMQ 6.7).
 */
import { Redis, type RedisOptions } from 'ioredis';
import type { Logger } from '../log.ts';
import { logLosses } from './log-losses.ts';
import { endSocketTimeoutWithSocket } from './socket-timeout.ts';

/** Longer than the longest idle read (BullMQ's drainDelay of 5 s, and our PING every 5 s). */
const socketTimeoutMs = 15_000;
const pingIntervalMs = 5_000;

const common: RedisOptions = {
  connectTimeout: 5_000,
  keepAlive: 10_000,
  // A half-open connection swallows bytes without an error; only silence on the socket gives it away.
  socketTimeout: socketTimeoutMs,
  retryStrategy: (times) => Math.min(50 * 2 ** times, 2_000),
  // After a fail-over the old primary answers READONLY: without this a worker spins at thousands of errors a second.
  reconnectOnError: (err) =>
    err.message.startsWith('READONLY') ? 2 : /^(LOADING|MASTERDOWN)/.test(err.message) ? 1 : false,
};

/** For adding deliveries and publishing: fails at once when Redis is away, because Postgres has the job already. */
export function createProducerConnection(url: string, log: Logger): Redis {
  const redis = new Redis(url, {
    ...common,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 1,
    commandTimeout: 2_000,
  });
  return watch(redis, 'producer', log);
}

/** For BullMQ workers: waits for Redis as long as it takes (`maxRetriesPerRequest: null` is required there). */
export function createConsumerConnection(url: string, log: Logger): Redis {
  return watch(new Redis(url, { ...common, maxRetriesPerRequest: null }), 'consumer', log);
}

/** For subscriptions, which `listenForSignal` renews with every new connection. */
export function createSubscriberConnection(url: string, log: Logger): Redis {
  return watch(
    new Redis(url, { ...common, maxRetriesPerRequest: null, autoResubscribe: false }),
    'subscriber',
    log,
  );
}

/** Tells of losses, and sends a PING now and then so that silence means death. */
function watch(redis: Redis, kind: string, log: Logger): Redis {
  endSocketTimeoutWithSocket(redis);
  logLosses(redis, kind, log);
  const timer = setInterval(() => {
    if (redis.status === 'ready') redis.ping().catch(() => {});
  }, pingIntervalMs);
  timer.unref();
  redis.on('end', () => clearInterval(timer));
  return redis;
}

/**
 * Warns when Redis is set up to evict keys: it would throw deliveries away whenever it is full. They would be repaired, again and
 * again, so this is not an error; it is a waste that nobody notices. Asked with every new connection.
 * @returns what to tell an operator about Redis at this moment; "ok" when there is nothing.
 */
export function watchRedisState(redis: Redis, log: Logger): () => string {
  let policy: string | undefined;
  const ask = async (): Promise<void> => {
    // Not CONFIG, which shows passwords, and which a user of least rights may not have.
    const given = /^maxmemory_policy:(\S+)/m.exec(await redis.info('memory'))?.[1];
    policy = given === 'noeviction' ? undefined : given;
    if (policy !== undefined)
      log.warn({ policy }, 'redis evicts keys when it is full: set maxmemory-policy noeviction');
  };
  // It went away again, or INFO is not allowed (managed Redis): both are fine.
  const tryAsking = () => void ask().catch(() => {});
  if (redis.status === 'ready') tryAsking();
  redis.on('ready', tryAsking);
  return () => {
    if (redis.status !== 'ready') return 'away (jobs are accepted and wait)';
    return policy === undefined
      ? 'ok'
      : `evicts keys when it is full (maxmemory-policy ${policy}): set maxmemory-policy noeviction`;
  };
}
