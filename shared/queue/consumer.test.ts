import { Redis } from 'ioredis';
import { expect, onTestFinished, test } from 'vitest';
import type { Delivery } from '#shared/db/claim-jobs.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createLogger } from '#shared/log.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';
import { createConsumer, type Turn } from './consumer.ts';
import { createDeliveries, type Deliveries } from './deliveries.ts';

const log = createLogger({ service: 'test', level: 'silent' });
const soon = (ms = 100) => new Promise((resolve) => setTimeout(resolve, ms));

/** Jobs that run until they are ended. @param claim resolves when a claim is answered. */
function createRuns(claim: () => Promise<unknown> = async () => undefined) {
  const claimed: string[] = [];
  const returned: string[] = [];
  const begun: string[] = [];
  const running = new Map<string, () => void>();
  let most = 0;
  return {
    claimed,
    /** Those that were claimed and had no slot in time. */
    returned,
    begun,
    most: () => most,
    running: () => running.size,
    isRunning: (jobId: string) => running.has(jobId),
    end: (jobId: string) => running.get(jobId)?.(),
    endAll: () => running.forEach((end) => end()),
    async work({ jobId }: Delivery, onClaimed: () => void, slot: true | Promise<boolean>) {
      claimed.push(jobId);
      await claim();
      onClaimed();
      if (!(await slot)) {
        returned.push(jobId);
        return;
      }
      begun.push(jobId);
      await new Promise<void>((resolve) => {
        running.set(jobId, resolve);
        most = Math.max(most, running.size);
      });
      running.delete(jobId);
    },
  };
}

async function setup() {
  const world = await createWorld();
  const redis = new Redis(world.redisUrl, { maxRetriesPerRequest: null });
  const deliveries = createDeliveries({ redis, prefix: world.redisPrefix });
  onTestFinished(async () => {
    deliveries.close();
    await world.dispose();
  });
  const start = (
    slots: number,
    runs: Pick<Parameters<typeof createConsumer>[0], 'work'> & { endAll(): void },
    own: Partial<Deliveries> = {},
    more: Pick<Parameters<typeof createConsumer>[0], 'admit' | 'isCrowded' | 'claimsAhead' | 'holdMs'> = {},
  ) => {
    const consumer = createConsumer({
      queue: 'q',
      slots,
      prefix: world.redisPrefix,
      connect: () => new Redis(world.redisUrl, { maxRetriesPerRequest: null }),
      deliveries: { ...deliveries, ...own },
      work: runs.work,
      ...more,
      onStuck: () => {
        throw new Error('stuck');
      },
      log,
    });
    onTestFinished(async () => {
      await consumer.pause();
      runs.endAll();
      await consumer.close();
    });
    return consumer;
  };
  const add = async (count: number, size = 1) => {
    const jobs = Array.from({ length: count }, () => ({ jobId: uuidv7(), fence: 0, queue: 'q' }));
    await deliveries.add(jobs, new Map([['q', size]]));
    return jobs.map((job) => job.jobId);
  };
  const listed = () => redis.llen(`${world.redisPrefix}:q:wait`);
  /** How often BullMQ has handed out an entry. */
  const fetched = async () =>
    (await redis.xrange(`${world.redisPrefix}:q:events`, '-', '+')).filter(
      ([, pairs]) => pairs[1] === 'active',
    ).length;
  const taken = () => redis.llen(`${world.redisPrefix}:q:active`);
  return { redis, world, deliveries, start, add, listed, taken, fetched };
}

test.for([
  { count: 40, size: 1 },
  { count: 64, size: 8 },
  { count: 70, size: 16 },
])(
  '$count deliveries in bundles of $size are each worked on once, never more at once than slots',
  async ({ count, size }) => {
    const { start, add, listed, taken } = await setup();
    const runs = createRuns();
    const consumer = start(5, runs);
    const jobs = await add(count, size);
    await waitFor(() => (runs.running() === 5 ? true : undefined), { what: 'all slots to be taken' });
    await waitFor(
      () => {
        runs.endAll();
        return runs.begun.length >= count ? true : undefined;
      },
      { what: 'all jobs to begin' },
    );
    expect(runs.begun.toSorted()).toEqual(jobs.toSorted());
    expect(runs.most()).toBe(5);
    await waitFor(
      async () => {
        runs.endAll();
        return (await listed()) + (await taken()) + consumer.busy() === 0 ? true : undefined;
      },
      { what: 'nothing to be left' },
    );
  },
);

test('a worker whose slots are taken takes nothing: what waits is there for others', async () => {
  const { start, add, listed, fetched } = await setup();
  const [mine, others] = [createRuns(), createRuns()];
  const consumer = start(2, mine);
  await add(2);
  await waitFor(() => (mine.begun.length === 2 ? true : undefined), { what: 'two runs' });
  await add(3);
  mine.end(mine.begun[0] ?? '');
  await waitFor(() => (mine.begun.length === 3 ? true : undefined), { what: 'the third run' });
  await soon();
  expect([await listed(), consumer.busy()]).toEqual([2, 2]);
  // Each was fetched once: none went back for want of a slot.
  expect(await fetched()).toBe(3);
  start(2, others);
  await waitFor(() => (others.begun.length === 2 ? true : undefined), { what: 'another worker' });
});

test('a worker that has run out of work takes the next at once, in all of its slots', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  const consumer = start(20, runs);
  for (const count of [3, 20, 1, 20]) {
    const jobs = await add(count);
    await waitFor(() => (jobs.every((job) => runs.isRunning(job)) ? true : undefined), {
      what: 'all to run',
    });
    expect(consumer.busy()).toBe(count);
    runs.endAll();
    await waitFor(() => (consumer.busy() === 0 ? true : undefined), { what: 'the end' });
  }
});

test('what of a bundle finds no slot for a while goes back, and runs where there is one', async () => {
  const { start, add } = await setup();
  const [slow, others] = [createRuns(), createRuns()];
  start(2, slow);
  const jobs = await add(8, 8);
  await waitFor(() => (slow.begun.length === 2 ? true : undefined), { what: 'two runs' });
  start(6, others);
  await waitFor(() => (others.begun.length === 6 ? true : undefined), { what: 'the rest to run elsewhere' });
  expect([...slow.begun, ...others.begun].toSorted()).toEqual(jobs.toSorted());
});

test('what goes back is not lost when Redis refuses it at first: until then the bundle is held', async () => {
  const { start, add, deliveries, taken } = await setup();
  const [slow, others] = [createRuns(), createRuns()];
  let tries = 0;
  let isReadOnly = true;
  const consumer = start(1, slow, {
    giveBack(some) {
      tries += 1;
      return isReadOnly ? Promise.reject(new Error('READONLY')) : deliveries.giveBack(some);
    },
  });
  await add(3, 3);
  await waitFor(() => (tries === 1 ? true : undefined), { what: 'the first try' });
  slow.endAll();
  await waitFor(() => (consumer.busy() === 0 && tries === 2 ? true : undefined), { what: 'the second try' });
  // A slot is free, and the bundle is held all the same.
  expect([await taken(), consumer.isIdle()]).toEqual([1, false]);
  isReadOnly = false;
  start(2, others);
  await waitFor(() => (slow.begun.length + others.begun.length === 3 ? true : undefined), {
    what: 'the rest to run',
  });
});

test('a delivery whose claim fails is missing at once, whatever else of its bundle runs', async () => {
  const { start, add, deliveries } = await setup();
  const runs = createRuns();
  let failing = '';
  start(3, {
    ...runs,
    work: (delivery, onClaimed, slot) =>
      delivery.jobId === failing
        ? Promise.reject(new Error('the connection ended'))
        : runs.work(delivery, onClaimed, slot),
  });
  const jobs = Array.from({ length: 3 }, () => ({ jobId: uuidv7(), fence: 0, queue: 'q' }));
  failing = jobs[1]?.jobId ?? '';
  await deliveries.add(jobs, new Map([['q', 3]]));
  await waitFor(() => (runs.running() === 2 ? true : undefined), { what: 'the others to run' });
  const missing = async () => (await deliveries.listMissing(jobs)).map((job) => job.jobId);
  await waitFor(async () => ((await missing()).includes(failing) ? true : undefined), {
    what: 'it to be missing',
  });
  await add(1);
  await waitFor(() => (runs.running() === 3 ? true : undefined), { what: 'the next one in its slot' });
});

test('a pause gives back what has not begun, and a resumed worker takes jobs again', async () => {
  const { start, add, listed, taken } = await setup();
  const runs = createRuns();
  const consumer = start(2, runs);
  await add(6, 6);
  await waitFor(() => (runs.begun.length === 2 ? true : undefined), { what: 'two runs' });
  await consumer.pause();
  await waitFor(async () => ((await taken()) === 0 ? true : undefined), {
    what: 'the bundle to be given back',
  });
  expect([await listed(), runs.begun.length]).toEqual([4, 2]);
  runs.endAll();
  await waitFor(() => (consumer.isIdle() ? true : undefined), { what: 'the end of both' });
  await consumer.resume();
  await waitFor(
    () => {
      runs.endAll();
      return runs.begun.length === 6 ? true : undefined;
    },
    { what: 'the others to run' },
  );
});

test('deliveries of a queue that its worker does not take any more are taken after the consumer was rebuilt', async () => {
  const { start, add, redis, world } = await setup();
  const runs = createRuns();
  const consumer = start(4, runs);
  await add(1);
  await waitFor(() => (runs.begun.length === 1 ? true : undefined), { what: 'a run' });
  // Without the marker on which an idle worker blocks it does not notice them before its next look.
  await redis.rpush(`${world.redisPrefix}:q:wait`, `j_${uuidv7()}_0`);
  expect(await consumer.watch()).toBe(false);
  expect(await consumer.watch(performance.now() + 20_000)).toBe(true);
  await add(8);
  await waitFor(() => (runs.running() === 4 ? true : undefined), { what: 'all slots to be taken' });
  runs.endAll();
  await waitFor(() => (runs.running() === 4 ? true : undefined), { what: 'all slots to be taken again' });
  expect([consumer.busy(), runs.most()]).toEqual([4, 4]);
});

test('what goes back is the first to be taken again, in its order', async () => {
  const { start, add, listed } = await setup();
  const [slow, others] = [createRuns(), createRuns()];
  start(1, slow);
  const first = await add(4, 4);
  await waitFor(() => (slow.begun.length === 1 ? true : undefined), { what: 'a run' });
  const later = await add(2);
  await waitFor(async () => ((await listed()) === 5 ? true : undefined), { what: 'three to go back' });
  start(1, others);
  await waitFor(
    () => {
      others.endAll();
      return others.begun.length === 5 ? true : undefined;
    },
    { what: 'the rest to run elsewhere' },
  );
  expect(others.begun).toEqual([...first.slice(1), ...later]);
});

test('what is not let in for a while, or cannot be asked for, goes back and takes no slot', async () => {
  const { start, add, fetched } = await setup();
  const runs = createRuns();
  let answer: 'short' | 'broken' | 'fine' = 'short';
  const consumer = start(
    2,
    runs,
    {},
    {
      async admit(isGivenUp) {
        if (answer === 'broken') throw new Error('No such file: /proc/meminfo');
        while (answer === 'short' && !isGivenUp()) await soon(10);
        return answer === 'fine';
      },
    },
  );
  await add(6, 3);
  await waitFor(async () => ((await fetched()) > 4 ? true : undefined), { what: 'bundles to come back' });
  answer = 'broken';
  await waitFor(() => (consumer.busy() === 0 ? true : undefined), { what: 'the slots to be free' });
  answer = 'fine';
  expect(runs.begun).toEqual([]);
  await add(2);
  await waitFor(() => (runs.running() === 2 ? true : undefined), { what: 'two runs' });
});

test('a bundle is claimed whole when its first has a slot; the others begin in their order, never more at once than slots', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  const consumer = start(2, runs, {}, { claimsAhead: true, holdMs: 60_000 });
  const jobs = await add(8, 8);
  await waitFor(() => (runs.claimed.length === 8 && runs.running() === 2 ? true : undefined), {
    what: 'all to be claimed, and two to run',
  });
  await soon();
  expect(runs.begun).toEqual(jobs.slice(0, 2));
  for (let begun = 3; begun <= 8; begun += 1) {
    runs.end(jobs[begun - 3] ?? '');
    await waitFor(() => (runs.begun.length === begun ? true : undefined), { what: `${begun} to have begun` });
  }
  expect([runs.begun, runs.most(), consumer.busy()]).toEqual([jobs, 2, 2]);
  runs.endAll();
  await waitFor(() => (consumer.isIdle() ? true : undefined), { what: 'all to have ended' });
  expect(runs.returned).toEqual([]);
});

test('what has begun in the place of one that ends has the next slot, and is not asked for memory', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  const turns = new Map<string, Turn>();
  const asked: number[] = [];
  const consumer = start(
    1,
    {
      ...runs,
      work(delivery, onClaimed, slot, turn?: Turn) {
        if (turn !== undefined) turns.set(delivery.jobId, turn);
        return runs.work(delivery, onClaimed, slot);
      },
    },
    {},
    { claimsAhead: true, holdMs: 60_000, admit: async () => asked.push(runs.begun.length) > 0 },
  );
  const [first = '', second = '', third = ''] = await add(3, 3);
  await waitFor(() => (runs.claimed.length === 3 && runs.running() === 1 ? true : undefined), {
    what: 'all to be claimed, and one to run',
  });
  expect(turns.get(second)?.mayBeGiven()).toBe(true);
  turns.get(third)?.begin();
  expect(turns.get(second)?.mayBeGiven(), 'when more run than there are slots').toBe(false);
  runs.end(first);
  await waitFor(() => (runs.begun.length === 2 ? true : undefined), { what: 'the next one' });
  expect(turns.get(second)?.mayBeGiven()).toBe(true);
  runs.end(third);
  await waitFor(() => (runs.begun.length === 3 ? true : undefined), { what: 'the last one' });
  expect([runs.begun, asked]).toEqual([
    [first, third, second],
    [0, 2],
  ]);
  runs.endAll();
  await waitFor(() => (consumer.isIdle() ? true : undefined), { what: 'all to have ended' });
});

test('nothing may begin out of turn while a delivery waits that is not claimed', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  const turns = new Map<string, Turn>();
  start(
    2,
    {
      ...runs,
      work(delivery, onClaimed, slot, turn?: Turn) {
        if (turn !== undefined) turns.set(delivery.jobId, turn);
        return runs.work(delivery, onClaimed, slot);
      },
    },
    {},
    { claimsAhead: true, holdMs: 60_000 },
  );
  const bundle = await add(4, 4);
  await waitFor(() => (runs.claimed.length === 4 && runs.running() === 2 ? true : undefined), {
    what: 'all to be claimed, and two to run',
  });
  const mayBeGiven = () => turns.get(bundle[3] ?? '')?.mayBeGiven();
  expect(mayBeGiven()).toBe(true);
  const [single = ''] = await add(1);
  await waitFor(() => (mayBeGiven() === false ? true : undefined), { what: 'another one to wait' });
  for (const jobId of bundle) {
    await waitFor(() => (runs.isRunning(jobId) ? true : undefined), { what: 'the bundle to run' });
    runs.end(jobId);
  }
  await waitFor(() => (runs.isRunning(single) ? true : undefined), { what: 'that one to run' });
  expect(mayBeGiven()).toBe(true);
});

test('nothing is given to anybody while memory is waited for, or in a pause', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  let turn: Turn | undefined;
  let isCrowded = false;
  const consumer = start(
    1,
    {
      ...runs,
      work(delivery, onClaimed, slot, given?: Turn) {
        turn = given;
        return runs.work(delivery, onClaimed, slot);
      },
    },
    {},
    { claimsAhead: true, holdMs: 60_000, isCrowded: () => isCrowded },
  );
  await add(2, 2);
  await waitFor(() => (runs.claimed.length === 2 ? true : undefined), { what: 'both to be claimed' });
  expect(turn?.mayBeGiven()).toBe(true);
  isCrowded = true;
  expect(turn?.mayBeGiven()).toBe(false);
  isCrowded = false;
  await consumer.pause();
  expect(turn?.mayBeGiven()).toBe(false);
});

test('what was claimed and has no slot for a while is told so, and takes none', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  const consumer = start(2, runs, {}, { claimsAhead: true });
  const jobs = await add(5, 5);
  await waitFor(() => (runs.returned.length === 3 ? true : undefined), { what: 'three to go back' });
  expect([runs.begun, runs.returned, consumer.busy()]).toEqual([jobs.slice(0, 2), jobs.slice(2), 2]);
  runs.endAll();
  await waitFor(() => (consumer.isIdle() ? true : undefined), { what: 'the slots to be free' });
  await add(2);
  await waitFor(() => (runs.running() === 2 ? true : undefined), { what: 'two more runs' });
});

test('with one slot the next bundle is claimed when the line has ended, while the slot is taken: if runs end quickly', async () => {
  const { start, add, listed } = await setup();
  const runs = createRuns();
  const consumer = start(1, runs, {}, { claimsAhead: true, holdMs: 60_000 });
  const jobs = await add(6, 2);
  await waitFor(() => (runs.claimed.length === 2 && runs.running() === 1 ? true : undefined), {
    what: 'the first bundle',
  });
  await soon();
  expect([runs.claimed, await listed()], 'one stands in line').toEqual([jobs.slice(0, 2), 2]);
  runs.end(jobs[0] ?? '');
  await waitFor(() => (runs.claimed.length === 4 ? true : undefined), { what: 'the second bundle' });
  await soon();
  expect([runs.begun, runs.claimed, await listed()]).toEqual([jobs.slice(0, 2), jobs.slice(0, 4), 1]);
  await waitFor(
    () => {
      runs.endAll();
      return runs.begun.length === 6 && consumer.isIdle() ? true : undefined;
    },
    { what: 'all to have ended' },
  );
  expect([runs.begun, runs.most(), runs.returned]).toEqual([jobs, 1, []]);
});

test('a bundle that comes when no run has ended for a while waits for a slot before it is claimed, and goes back as it is', async () => {
  const { start, add, listed } = await setup();
  const runs = createRuns();
  const consumer = start(2, runs, {}, { claimsAhead: true });
  await add(1);
  await waitFor(() => (runs.running() === 1 ? true : undefined), { what: 'a run' });
  runs.endAll();
  await waitFor(() => (consumer.isIdle() ? true : undefined), { what: 'its end' });
  // One fetch takes both slots, and the other one still waits for something to come.
  await add(2, 2);
  await waitFor(() => (runs.running() === 2 ? true : undefined), { what: 'two long runs' });
  await soon(300);
  await add(2, 2);
  await soon(600);
  expect([runs.claimed.length, runs.returned, await listed()]).toEqual([3, [], 1]);
});

test('while there is no memory nothing is claimed ahead: a free slot does not help', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  let isShort = false;
  const consumer = start(2, runs, {}, { claimsAhead: true, admit: async () => !isShort });
  await add(1);
  await waitFor(() => (runs.running() === 1 ? true : undefined), { what: 'a run' });
  isShort = true;
  runs.endAll();
  await waitFor(() => (consumer.busy() === 0 ? true : undefined), { what: 'its end' });
  await add(2, 2);
  await soon(600);
  expect([runs.claimed.length, runs.returned]).toEqual([1, []]);
});

test('what is claimed slowly does not go back for that: its time in line begins with the answer', async () => {
  const { start, add } = await setup();
  const runs = createRuns(() => soon(300));
  start(2, runs, {}, { claimsAhead: true, holdMs: 150 });
  const jobs = await add(3, 3);
  await waitFor(() => (runs.running() === 2 ? true : undefined), { what: 'two runs' });
  runs.end(jobs[0] ?? '');
  await waitFor(() => (runs.begun.length === 3 ? true : undefined), { what: 'the third run' });
  expect(runs.returned).toEqual([]);
});

test('a pause sends back at once what was claimed and has not begun', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  const consumer = start(2, runs, {}, { claimsAhead: true, holdMs: 600_000 });
  const jobs = await add(5, 5);
  await waitFor(() => (runs.claimed.length === 5 && runs.running() === 2 ? true : undefined), {
    what: 'all to be claimed, and two to run',
  });
  await consumer.pause();
  await waitFor(() => (runs.returned.length === 3 ? true : undefined), { what: 'three to go back' });
  runs.endAll();
  await waitFor(() => (consumer.isIdle() ? true : undefined), { what: 'the end of both' });
  expect(runs.begun).toEqual(jobs.slice(0, 2));
});

test('what was claimed and cannot be let in is told so, also when nobody can tell whether there is room', async () => {
  const { start, add } = await setup();
  const runs = createRuns();
  let asked = 0;
  const consumer = start(
    3,
    runs,
    {},
    {
      claimsAhead: true,
      async admit() {
        asked += 1;
        if (asked === 2) throw new Error('No such file: /proc/meminfo');
        return true;
      },
    },
  );
  const [first, second, third] = await add(3, 3);
  await waitFor(() => (runs.returned.length === 1 ? true : undefined), { what: 'one to go back' });
  expect([runs.begun, runs.returned, consumer.busy()]).toEqual([[first, third], [second], 2]);
});

test('what is not ours is dropped, and nothing is kept of it', async () => {
  const { start, add, redis, world } = await setup();
  const runs = createRuns();
  const key = `${world.redisPrefix}:q:`;
  await redis.hset(`${key}b_x`, { name: 'd', data: '["j_1_1"]' });
  await redis.hset(`${key}b_empty`, { name: 'd', data: '[]', opts: '{}' });
  await redis.lpush(`${key}wait`, 'b_x', 'b_empty', 'b_gone');
  start(1, runs);
  const [job = ''] = await add(1);
  await waitFor(() => (runs.isRunning(job) ? true : undefined), { what: 'the run of ours' });
  expect(runs.begun).toEqual([job]);
  await waitFor(
    async () => ((await redis.exists(`${key}b_x`, `${key}b_empty`, `${key}b_gone`)) === 0 ? true : undefined),
    {
      what: 'the others to be gone',
    },
  );
  expect(await redis.exists(`${key}completed`, `${key}failed`)).toBe(0);
});
