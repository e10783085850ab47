import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { createDb, type Db } from '#shared/db/pool.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createJobWaiter, type JobWaiter } from './job-waiter.ts';

let world: World;
let db: Db;
let waiter: JobWaiter;
beforeAll(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 2, timeoutMs: 5_000, name: 'test' });
});
beforeEach(() => {
  waiter = createJobWaiter({ db });
});
afterEach(() => waiter.stop());
afterAll(async () => {
  await db.end();
  await world.dispose();
});

/** Longer than any test may take: whoever waits is woken by something else. */
const forever = 600_000;
const never = new AbortController().signal;

test('an end that nobody announced is noticed', async () => {
  const [ended, running] = [await insertJob(db), await insertJob(db)];
  let isWoken = false;
  void waiter.wait(running, forever, never).then(() => {
    isWoken = true;
  });
  const waiting = waiter.wait(ended, forever, never);
  await db.query(`UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = $1`, [ended]);
  await waiting;
  expect(isWoken).toBe(false);
});

test('an announced end wakes all who wait for it', async () => {
  const id = await insertJob(db);
  const waiting = [waiter.wait(id, forever, never), waiter.wait(id, forever, never)];
  waiter.notify(id);
  await Promise.all(waiting);
});

test('nobody waits longer than asked', async () => {
  await waiter.wait(await insertJob(db), 1, never);
});

test('a client that is gone waits no longer', async () => {
  const gone = new AbortController();
  const waiting = waiter.wait(await insertJob(db), forever, gone.signal);
  gone.abort();
  await waiting;
  await waiter.wait(await insertJob(db), forever, gone.signal);
});

test('nobody waits in a process that stops', async () => {
  const waiting = waiter.wait(await insertJob(db), forever, never);
  waiter.stop();
  await waiting;
});
