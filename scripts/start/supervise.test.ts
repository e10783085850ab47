import { pino } from 'pino';
import { expect, test } from 'vitest';
import { waitFor } from '#test/support/wait-for.ts';
import { supervise, type Launched } from './supervise.ts';

const log = pino({ level: 'silent' });

test('a process that ends unexpectedly is launched again', async () => {
  const world = fakeProcesses();
  const supervised = supervise({ name: 'api', log, launch: world.launch, onGiveUp: world.onGiveUp });
  await supervised.ready;
  world.launched[0]?.die('signal SIGKILL');
  await waitFor(() => world.launched[1], { what: 'the second launch' });
  await supervised.stop();
  expect(world.launched.map((launched) => launched.how)).toEqual(['signal SIGKILL', 'stopped']);
  expect(world.givenUp).toEqual([]);
});

test('one that keeps dying is given up after five restarts within a minute, and the reason is told', async () => {
  const world = fakeProcesses({ diesAtOnce: true });
  supervise({ name: 'api', log, launch: world.launch, onGiveUp: world.onGiveUp });
  const err = await waitFor(() => world.givenUp[0], { what: 'the end of the attempts' });
  expect(err.message).toBe('The api ended 6 times within a minute, last with: exit code 1');
  expect(world.launched).toHaveLength(6);
});

test('a launch that fails later on counts as a death', async () => {
  const world = fakeProcesses({ failsFrom: 1 });
  const supervised = supervise({ name: 'api', log, launch: world.launch, onGiveUp: world.onGiveUp });
  await supervised.ready;
  world.launched[0]?.die('exit code 1');
  const err = await waitFor(() => world.givenUp[0], { what: 'the end of the attempts' });
  expect(err.message).toContain('last with: no more processes');
});

test('a first launch that fails is not tried again', async () => {
  const world = fakeProcesses({ failsFrom: 0 });
  const supervised = supervise({ name: 'api', log, launch: world.launch, onGiveUp: world.onGiveUp });
  await expect(supervised.ready).rejects.toThrow('no more processes');
  await supervised.stop();
  expect(world.attempts).toBe(1);
  expect(world.givenUp).toEqual([]);
});

test('stopping while it is being launched ends the launch, and stops what came of it', async () => {
  let signal: AbortSignal | undefined;
  const { launched, launch, onGiveUp } = fakeProcesses();
  const supervised = supervise({
    name: 'api',
    log,
    onGiveUp,
    launch: async (given) => {
      signal = given;
      await new Promise((resolve) => given.addEventListener('abort', resolve));
      return await launch();
    },
  });
  await supervised.stop();
  expect(signal?.aborted).toBe(true);
  expect(launched.map(({ how }) => how)).toEqual(['stopped']);
});

interface FakeProcess extends Launched {
  how: string | undefined;
  die(how: string): void;
}

function fakeProcesses(options: { diesAtOnce?: boolean; failsFrom?: number } = {}) {
  const world = {
    launched: [] as FakeProcess[],
    attempts: 0,
    givenUp: [] as Error[],
    onGiveUp: (err: Error) => void world.givenUp.push(err),
    async launch(): Promise<FakeProcess> {
      await Promise.resolve();
      world.attempts += 1;
      if (world.attempts > (options.failsFrom ?? Number.POSITIVE_INFINITY))
        throw new Error('no more processes');
      const end = Promise.withResolvers<string>();
      const launched: FakeProcess = {
        how: undefined,
        exited: end.promise,
        die(how) {
          launched.how ??= how;
          end.resolve(how);
        },
        async stop() {
          launched.die('stopped');
          await end.promise;
        },
      };
      world.launched.push(launched);
      if (options.diesAtOnce === true) launched.die('exit code 1');
      return launched;
    },
  };
  return world;
}
