import { afterEach, beforeEach, expect, test } from 'vitest';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { toUniqueKey } from '../domain/unique-key.ts';
import { expireJobs } from './expire-jobs.ts';
import { ensureQueues } from './feed-queues.ts';
import { createHotDb, type Db } from './pool.ts';
import { shiftTime } from './shift-time.ts';
import { createAcceptAnyJobs } from './unique-jobs.ts';

let world: World;
let db: Db;
beforeEach(async () => {
  world = await createWorld();
  db = createHotDb({ url: world.databaseUrl, size: 3, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

test('a job expires when the time in which it had to start is moved over', async () => {
  const job = newJob({ delayMs: 60_000, options: { startWithinMs: 60_000 } });
  await createAcceptAnyJobs(db).add(job);
  await shiftTime(db, 60_000);
  expect(await expireJobs(db, ['q'])).toEqual([]);
  await shiftTime(db, 60_000);
  expect(await expireJobs(db, ['q'])).toEqual([job.id]);
});

test('a key that only time ends is free when that time is moved over', async () => {
  const accepts = createAcceptAnyJobs(db);
  const throttled = () => newJob({ uniqueKey: toUniqueKey({ key: 'k', ttlMs: 60_000 }) });
  expect(await accepts.add(throttled())).toMatchObject({ type: 'accepted' });
  expect(await accepts.add(throttled())).toMatchObject({ type: 'held' });
  await shiftTime(db, 60_000);
  expect(await accepts.add(throttled())).toMatchObject({ type: 'accepted' });
});
