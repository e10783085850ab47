import type { Redis } from 'ioredis';
import type { Logger } from '../log.ts';

/** Connections that are away. All of a process share its log. */
const awayByLog = new WeakMap<Logger, Set<Redis>>();

/**
 * One line when Redis goes and one when it is back, whatever the number of connections and retries: a worker has a few for every
 * queue, and a storm of equal lines tells an operator nothing more.
 */
export function logLosses(redis: Redis, kind: string, log: Logger): void {
  const away = awayByLog.get(log) ?? new Set();
  awayByLog.set(log, away);
  redis.on('error', (err) => {
    if (away.size === 0) log.warn({ kind, err: err.message }, 'redis is away');
    away.add(redis);
  });
  redis.on('ready', () => {
    if (away.delete(redis) && away.size === 0) log.info('redis is back');
  });
  redis.on('end', () => away.delete(redis));
}
