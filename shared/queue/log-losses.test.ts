import { EventEmitter } from 'node:events';
import { pino } from 'pino';
import type { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { startFaultProxy, type FaultProxy } from '#test/support/fault-proxy.ts';
import { createWorld } from '#test/support/world.ts';
import { createConsumerConnection, createSubscriberConnection } from './connections.ts';
import { logLosses } from './log-losses.ts';

test('the loss of Redis is told once, and its return once, however many connections there are', () =>
  withConnections(async ({ connections, proxy, told }) => {
    const fromAwayToBack = ['redis is away', 'redis is back'];
    await lose(connections, proxy);
    await Promise.all(connections.map((redis) => redis.ping()));
    expect(told()).toEqual(fromAwayToBack);
    await lose(connections, proxy);
    await Promise.all(connections.map((redis) => redis.ping()));
    expect(told()).toEqual([...fromAwayToBack, ...fromAwayToBack]);
  }));

test('a connection that is given up while Redis is away is not waited for', () =>
  withConnections(async ({ connections, proxy, told }) => {
    const [given, ...kept] = connections;
    proxy.refuse();
    await lose(connections, proxy);
    given?.disconnect();
    proxy.heal();
    await Promise.all(kept.map((redis) => redis.ping()));
    expect(told()).toEqual(['redis is away', 'redis is back']);
  }));

test('Redis is back when all connections are, and a retry that fails in between is no news', () => {
  const lines: string[] = [];
  const log = pino({}, { write: (line) => lines.push(line) });
  const [one, other] = [new EventEmitter(), new EventEmitter()];
  for (const redis of [one, other]) logLosses(redis as Redis, 'consumer', log);
  one.emit('error', new Error('read ECONNRESET'));
  other.emit('error', new Error('read ECONNRESET'));
  one.emit('ready');
  other.emit('error', new Error('connect ECONNREFUSED'));
  expect(lines).toHaveLength(1);
  other.emit('ready');
  expect(lines).toHaveLength(2);
});

test('a loss is told although the last connection that was away before was given up', () => {
  const lines: string[] = [];
  const log = pino({}, { write: (line) => lines.push(line) });
  const [given, kept] = [new EventEmitter(), new EventEmitter()];
  for (const redis of [given, kept]) logLosses(redis as Redis, 'consumer', log);
  given.emit('error', new Error('socket timeout'));
  given.emit('end');
  kept.emit('error', new Error('read ECONNRESET'));
  expect(lines).toHaveLength(2);
});

async function withConnections(
  work: (given: { connections: Redis[]; proxy: FaultProxy; told: () => string[] }) => Promise<void>,
): Promise<void> {
  const world = await createWorld();
  const proxy = await startFaultProxy(Number(new URL(world.redisUrl).port));
  const lines: string[] = [];
  const log = pino({}, { write: (line) => lines.push(line) });
  const url = proxy.url(world.redisUrl);
  const connections = [
    createSubscriberConnection(url, log),
    ...Array.from({ length: 5 }, () => createConsumerConnection(url, log)),
  ];
  try {
    await Promise.all(connections.map((redis) => redis.ping()));
    await work({
      connections,
      proxy,
      told: () => lines.map((line) => (JSON.parse(line) as { msg: string }).msg),
    });
  } finally {
    for (const redis of connections) redis.disconnect();
    await proxy.close();
    await world.dispose();
  }
}

/** Ends when every connection has noticed. */
async function lose(connections: readonly Redis[], proxy: FaultProxy): Promise<void> {
  const lost = connections.map((redis) => new Promise((resolve) => redis.once('error', resolve)));
  proxy.cut();
  await Promise.all(lost);
}
