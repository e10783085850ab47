import type { Redis } from 'ioredis';

/**
 * Mends the option `socketTimeout` of ioredis 5.11: the timer that waits for an answer is not stopped when the
 * connection ends. The next connection is therefore not watched, and when the time is over, it is cut off although it works:
 * once for every time that a connection was lost with a command on its way, 15 s later. Blocking commands always are.
 *
 * Also for the connections that BullMQ makes from this one (`duplicate`), which are the blocking ones.
 */
export function endSocketTimeoutWithSocket(redis: Redis): Redis {
  // The field is private to ioredis; without it nothing is there to be stopped.
  const inside = redis as unknown as { socketTimeoutTimer: NodeJS.Timeout | undefined };
  redis.on('close', () => {
    clearTimeout(inside.socketTimeoutTimer);
    inside.socketTimeoutTimer = undefined;
  });
  const duplicate = redis.duplicate.bind(redis);
  redis.duplicate = (override) => endSocketTimeoutWithSocket(duplicate(override));
  return redis;
}
