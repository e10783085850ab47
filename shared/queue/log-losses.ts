import type { Redis } from 'ioredis';
import type { Logger } from '../log.ts';

interface Losses {
  readonly away: Set<Redis>;
  isTold: boolean;
}

/** All connections of a process share its log. */
const lossesByLog = new WeakMap<Logger, Losses>();

/**
 * One line when Redis goes and one when it is back, whatever the number of connections and retries: a worker has a few for every
 * queue, and a storm of equal lines tells an operator nothing more.
 */
export function logLosses(redis: Redis, kind: string, log: Logger): void {
  const losses = lossesByLog.get(log) ?? { away: new Set(), isTold: false };
  lossesByLog.set(log, losses);
  redis.on('error', (err) => {
    losses.away.add(redis);
    if (!losses.isTold) log.warn({ kind, err: err.message }, 'redis is away');
    losses.isTold = true;
  });
  redis.on('ready', () => {
    losses.away.delete(redis);
    if (losses.isTold && losses.away.size === 0) {
      log.info('redis is back');
      losses.isTold = false;
    }
  });
  redis.on('end', () => losses.away.delete(redis));
}
