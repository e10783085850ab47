import { afterEach, beforeEach, expect, test } from 'vitest';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { uuidv7 } from '../ids.ts';
import { createAcceptJobs } from './accept-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { expireJobs } from './expire-jobs.ts';
import { ensureQueues } from './feed-queues.ts';
import { createDb, type Db } from './pool.ts';
import { retryJob } from './retry-job.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 3, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const startWithinMs = 60_000;

async function accept(fields: Parameters<typeof newJob>[0] = {}): Promise<string> {
  const job = newJob({ options: { startWithinMs }, ...fields });
  await createAcceptJobs(db).add(job);
  return job.id;
}

const setStartBefore = (id: string, offset: string) =>
  db.query('UPDATE jobs SET start_before = now() + $2::interval WHERE id = $1', [id, offset]);

async function rowOf(id: string): Promise<Record<string, unknown> | undefined> {
  const { rows } = await db.query<Record<string, unknown>>(
    `SELECT state, fence, error, dispatched_at, attempts_used, (extract(epoch FROM start_before - run_at) * 1000)::integer AS within_ms
     FROM jobs WHERE id = $1`,
    [id],
  );
  return rows[0];
}

test('the time to start counts from the time at which the job is due', async () => {
  expect(await rowOf(await accept())).toMatchObject({ within_ms: startWithinMs });
  expect(await rowOf(await accept({ delayMs: 3_600_000 }))).toMatchObject({
    state: 'scheduled',
    within_ms: startWithinMs,
  });
  expect(await rowOf(await accept({ options: {} }))).toMatchObject({ within_ms: null });
});

test.each(['scheduled', 'blocked', 'queued', 'retrying'])(
  'a job that is %s when its time to start is over fails as expired, once, by the clock of the database',
  async (state) => {
    const id = await accept();
    const lastError =
      state === 'retrying' ? { code: 'task-failed', message: 'no luck', retryable: true } : null;
    await db.query('UPDATE jobs SET state = $2, error = $3, dispatched_at = NULL WHERE id = $1', [
      id,
      state,
      lastError,
    ]);
    await setStartBefore(id, '1 minute');
    expect(await expireJobs(db, ['q'])).toEqual([]);
    await setStartBefore(id, '-1 ms');
    const rounds = await Promise.all([expireJobs(db, ['q']), expireJobs(db, ['q'])]);
    expect(rounds.flat()).toEqual([id]);
    const row = await rowOf(id);
    expect(row).toMatchObject({ state: 'failed', fence: 1, error: { code: 'expired', retryable: true } });
    if (lastError !== null)
      expect(JSON.stringify(row)).toContain('The last one ended with task-failed: no luck');
  },
);

test('a claim refuses what is worthless by now, also when nobody has noticed yet', async () => {
  const workerId = uuidv7();
  await registerTestWorker(db, { q: 1 }, { id: workerId });
  const claims = createClaimJobs(db, { id: workerId, tasks: ['t'] });
  const [late, early] = [await accept(), await accept()];
  await setStartBefore(late, '-1 ms');
  const claimed = await Promise.all([late, early].map((jobId) => claims.add({ jobId, fence: 0 })));
  expect(claimed.map((job) => job?.id)).toEqual([undefined, early]);
  // What has started goes on.
  await setStartBefore(early, '-1 ms');
  expect(await expireJobs(db, ['q'])).toEqual([late]);
  expect(await rowOf(early)).toMatchObject({ state: 'active' });
});

test('a retry gives the whole time to start again', async () => {
  const id = await accept();
  await setStartBefore(id, '-1 hour');
  await expireJobs(db, ['q']);
  expect(await retryJob(db, { tenantId: 'default', id, inputFiles: [] })).toMatchObject({ type: 'queued' });
  expect(await rowOf(id)).toMatchObject({ state: 'queued', error: null, within_ms: startWithinMs });
});
