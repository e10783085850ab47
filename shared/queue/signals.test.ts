import { once } from 'node:events';
import { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { startFaultProxy, type FaultProxy } from '#test/support/fault-proxy.ts';
import { createWorld } from '#test/support/world.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { uuidv7 } from '../ids.ts';
import { createLogger } from '../log.ts';
import { createSubscriberConnection } from './connections.ts';
import { createSignalPublisher, listenForSignal } from './signals.ts';

const log = createLogger({ service: 'test', level: 'silent' });

async function withSubscriber(
  check: (it: { proxy: FaultProxy; subscriber: Redis; heard: string[]; say: () => string }) => Promise<void>,
): Promise<void> {
  const world = await createWorld();
  const admin = new Redis(world.redisUrl);
  const proxy = await startFaultProxy(Number(new URL(world.redisUrl).port));
  const subscriber = createSubscriberConnection(proxy.url(world.redisUrl), log);
  const heard: string[] = [];
  const names = { prefix: world.redisPrefix, channel: 'ended' as const };
  listenForSignal({ redis: subscriber, ...names, listener: (id) => heard.push(id), log });
  const publisher = createSignalPublisher({ redis: admin, prefix: world.redisPrefix });
  const say = () => {
    const id = uuidv7();
    publisher.ended([id]);
    return id;
  };
  try {
    await check({ proxy, subscriber, heard, say });
  } finally {
    subscriber.disconnect();
    admin.disconnect();
    await proxy.close();
    await world.dispose();
  }
}

const untilHeard = async ({ heard, say }: { heard: string[]; say: () => string }) => {
  const said = new Set<string>();
  return waitFor(
    () => {
      said.add(say());
      return heard.some((id) => said.has(id)) ? true : undefined;
    },
    { what: 'a signal to be heard' },
  );
};

test('signals are heard again after the connection was lost', () =>
  withSubscriber(async (it) => {
    await untilHeard(it);
    const ready = once(it.subscriber, 'ready');
    it.subscriber.disconnect(true);
    await ready;
    await untilHeard(it);
  }));

test('a connection that is closed while its subscription is being renewed leaves no unhandled rejection', () =>
  withSubscriber(async (it) => {
    await untilHeard(it);
    const unhandled: unknown[] = [];
    const note = (err: unknown) => unhandled.push(err);
    process.on('unhandledRejection', note);
    const ended = once(it.subscriber, 'end');
    it.subscriber.once('ready', () => {
      it.subscriber.disconnect();
      it.proxy.cut();
    });
    it.subscriber.disconnect(true);
    await ended;
    await new Promise(setImmediate);
    process.off('unhandledRejection', note);
    expect(unhandled).toEqual([]);
  }));
