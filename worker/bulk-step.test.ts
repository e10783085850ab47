import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readClock } from '#shared/db/clock.ts';
import { ensureQueues } from '#shared/db/feed-queues.ts';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import { createDb, type Db } from '#shared/db/pool.ts';
import { createLogger } from '#shared/log.ts';
import { NotNowError } from '#shared/tasks/task-errors.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { uuidv7 } from '#shared/ids.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createBulkSteps } from './bulk-step.ts';
import { createTenantRoom } from './tenant-room.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 4, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['host', 'q']);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

/** A bulk action that is running, on jobs that have failed. */
async function start(
  action: 'retry' | 'replay',
  options: { failed: number; isBacklogFull?: () => Promise<boolean>; waitingMax?: number },
) {
  for (let count = 0; count < options.failed; count += 1)
    await insertJob(db, { state: 'failed', tags: ['a'] });
  const request = { action, q: 'tag:a', asOf: await readClock(db), reason: undefined };
  const workerId = uuidv7();
  const id = await insertJob(db, { state: 'active', queue: 'bulk', workerId });
  await db.query('UPDATE jobs SET created_at = clock_timestamp() WHERE id = $1', [id]);
  let queued = 0;
  const createSteps = () =>
    createBulkSteps({
      db,
      storage: createFsStorage({ dir: join(world.dataDir, 'files') }),
      signals: { ended: () => {}, cancel: () => {} },
      rules: {
        findFiles: () => [],
        makeAgain: (row) => newJob({ task: row.task, options: { replayOf: row.id } }),
      },
      isBacklogFull: options.isBacklogFull ?? (async () => false),
      tenantRoom: createTenantRoom({ db, waitingMax: options.waitingMax ?? 0 }),
      onQueued: () => (queued += 1),
      log: createLogger({ service: 'test', level: 'silent' }),
    });
  const job = { tenantId: 'default', id, fence: 0, workerId } as ClaimedJob;
  return {
    /** As a run would that has just begun, on a worker that has just started. */
    begin() {
      const step = createSteps()(job, new AbortController().signal);
      return () => step(request);
    },
    announced: () => queued,
    countQueued: async () =>
      (await db.query(`SELECT 1 FROM jobs WHERE state = 'queued' AND queue <> 'bulk'`)).rowCount,
  };
}

test.each(['retry', 'replay'] as const)(
  'a %s waits while too many jobs wait, and goes on when there are fewer',
  async (action) => {
    let isFull = true;
    const bulk = await start(action, { failed: 1, isBacklogFull: async () => isFull });
    const step = bulk.begin();
    await expect(step()).rejects.toThrow(NotNowError);
    expect([await bulk.countQueued(), bulk.announced()]).toEqual([0, 0]);
    isFull = false;
    expect(await step()).toMatchObject({ isDone: true, done: 1 });
    expect([await bulk.countQueued(), bulk.announced()]).toEqual([1, 1]);
  },
);

test.each(['retry', 'replay'] as const)(
  'a %s makes no more jobs than the tenant may have waiting, and the others when there is room',
  async (action) => {
    const bulk = await start(action, { failed: 5, waitingMax: 3 });
    const step = bulk.begin();
    expect(await step()).toMatchObject({ isDone: false, done: 3 });
    await expect(step()).rejects.toThrow('WINDLASS_WAITING_PER_TENANT_MAX');
    await expect(bulk.begin()()).rejects.toThrow(NotNowError);
    expect(await bulk.countQueued()).toBe(3);
    await db.query(
      `UPDATE jobs SET state = 'cancelled', finished_at = now(), dispatched_at = NULL WHERE state = 'queued'`,
    );
    const later = bulk.begin();
    let at = await later();
    while (!at.isDone) at = await later();
    expect(at).toMatchObject({ done: 5 });
    expect(await bulk.countQueued()).toBe(2);
  },
);
