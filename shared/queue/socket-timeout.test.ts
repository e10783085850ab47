import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { startFaultProxy } from '#test/support/fault-proxy.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';
import { endSocketTimeoutWithSocket } from './socket-timeout.ts';

const socketTimeoutMs = 1_000;

test.each([
  ['a connection', (redis: Redis) => redis],
  ['a duplicate of it', (redis: Redis) => redis.duplicate()],
])(
  '%s to Redis that was lost with a command on its way comes back, and is not cut off once more',
  async (_, pick) => {
    const world = await createWorld();
    const proxy = await startFaultProxy(Number(new URL(world.redisUrl).port));
    const first = endSocketTimeoutWithSocket(
      new Redis(proxy.url(world.redisUrl), { socketTimeout: socketTimeoutMs, maxRetriesPerRequest: null }),
    );
    const redis = pick(first);
    first.on('error', () => undefined);
    let losses = 0;
    redis.on('error', () => undefined).on('close', () => (losses += 1));
    await redis.ping();
    proxy.swallow(['down']);
    const onItsWay = redis.ping();
    await waitFor(() => (proxy.swallowedBytes() > 0 ? true : undefined), { what: 'an answer to be lost' });
    proxy.heal();
    proxy.cut();
    await onItsWay;
    expect(losses).toBe(1);
    for (const end = performance.now() + 2 * socketTimeoutMs; performance.now() < end; await sleep(50))
      await redis.ping();
    expect(losses).toBe(1);
    redis.disconnect();
    first.disconnect();
    await proxy.close();
    await world.dispose();
  },
);
