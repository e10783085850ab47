import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readClock } from '#shared/db/clock.ts';
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

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 4, timeoutMs: 5_000, name: 'test' });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

test.each(['retry', 'replay'] as const)(
  'a %s waits while too many jobs wait, and goes on when there are fewer',
  async (action) => {
    await insertJob(db, { state: 'failed', tags: ['a'] });
    const request = { action, q: 'tag:a', asOf: await readClock(db), reason: undefined };
    const workerId = uuidv7();
    const id = await insertJob(db, { state: 'active', queue: 'bulk', workerId });
    await db.query('UPDATE jobs SET created_at = clock_timestamp() WHERE id = $1', [id]);
    let isFull = true;
    let queued = 0;
    const createStep = createBulkSteps({
      db,
      storage: createFsStorage({ dir: join(world.dataDir, 'files') }),
      signals: { ended: () => {}, cancel: () => {} },
      rules: {
        findFiles: () => [],
        makeAgain: (row) => newJob({ task: row.task, options: { replayOf: row.id } }),
      },
      isBacklogFull: async () => isFull,
      onQueued: () => (queued += 1),
      log: createLogger({ service: 'test', level: 'silent' }),
    });
    const job = { tenantId: 'default', id, fence: 0, workerId } as ClaimedJob;
    const step = createStep(job, new AbortController().signal);
    const countQueued = async () =>
      (await db.query(`SELECT 1 FROM jobs WHERE state = 'queued' AND queue <> 'bulk'`)).rowCount;
    await expect(step(request)).rejects.toThrow(NotNowError);
    expect([await countQueued(), queued]).toEqual([0, 0]);
    isFull = false;
    expect(await step(request)).toMatchObject({ isDone: true, done: 1 });
    expect([await countQueued(), queued]).toEqual([1, 1]);
  },
);
