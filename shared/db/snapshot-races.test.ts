/**
 * Commands that wait for the lock of a row. Their snapshot shows the row as it was before; what they do must go by what it has
 * become, as if they had come a moment later.
 */
import { Client } from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { registerTestWorker } from '#test/support/register-test-worker.ts';
import { newJob } from '#test/support/new-job.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { insertJobs } from './accept-jobs.ts';
import { cancelJobs } from './cancel-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { ensureQueues } from './feed-queues.ts';
import { cancelJob, findJob } from './jobs.ts';
import { createDb, type Db } from './pool.ts';
import { retryJob } from './retry-job.ts';
import { uuidv7 } from '../ids.ts';

let world: World;
let db: Db;
const workerId = uuidv7();

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 5, timeoutMs: 5_000, name: 'test' });
  await ensureQueues(db, ['q']);
  await registerTestWorker(db, { q: 10 }, { id: workerId });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const cancels: readonly [string, (jobId: string) => Promise<unknown>, { ended: unknown; asked: unknown }][] =
  [
    [
      'a cancel',
      (jobId) => cancelJob(db, 'default', jobId, null),
      { ended: { type: 'cancelled' }, asked: { type: 'requested' } },
    ],
    [
      'a cancel of many',
      async (jobId) => {
        const { ended, asked } = await cancelJobs(db, 'default', [jobId], null);
        return { ended: ended.map((id) => id === jobId), asked: asked.map((id) => id === jobId) };
      },
      { ended: { ended: [true], asked: [] }, asked: { ended: [], asked: [true] } },
    ],
  ];

test.each(cancels)(
  '%s that waits while a run gives its job back ends the job',
  async (_, cancel, answers) => {
    const id = await startJob();
    const answer = await during(
      `UPDATE jobs SET state = 'queued', worker_id = NULL WHERE id = $1`,
      [id],
      () => cancel(id),
    );
    expect(answer).toEqual(answers.ended);
    expect(await findJob(db, 'default', id)).toMatchObject({ state: 'cancelled' });
  },
);

test.each(cancels)(
  '%s that waits while a worker claims the job asks that worker',
  async (_, cancel, answers) => {
    const id = await addJob();
    const answer = await during(
      `UPDATE jobs SET state = 'active', worker_id = $2, dispatched_at = NULL, started_at = now(), fence = 1 WHERE id = $1`,
      [id, workerId],
      () => cancel(id),
    );
    expect(answer).toEqual(answers.asked);
    const { rows } = await db.query(
      'SELECT state, cancel_requested_at IS NOT NULL AS asked FROM jobs WHERE id = $1',
      [id],
    );
    expect(rows).toEqual([{ state: 'active', asked: true }]);
  },
);

test.each([
  ['its run fails', startJob],
  ['it expires', addJob],
])('a retry that waits while %s queues the job', async (_, makeJob) => {
  const id = await makeJob();
  const answer = await during(
    `UPDATE jobs SET state = 'failed', worker_id = NULL, dispatched_at = NULL, finished_at = now(),
       expires_at = now() + interval '1 hour', error = '{"code": "x", "message": "x", "retryable": true}' WHERE id = $1`,
    [id],
    () => retryJob(db, { tenantId: 'default', id, inputFiles: [] }),
  );
  expect(answer).toEqual({ type: 'queued', waits: false });
  expect(await findJob(db, 'default', id)).toMatchObject({ state: 'queued', error: null });
});

async function addJob(): Promise<string> {
  const job = newJob();
  await insertJobs(db, [job]);
  return job.id;
}

async function startJob(): Promise<string> {
  const jobId = await addJob();
  const claimed = await createClaimJobs(db, { id: workerId, tasks: ['t'] }).add({ jobId, fence: 0 });
  if (claimed === undefined) throw new Error('The job could not be claimed.');
  return jobId;
}

/** The command waits for the lock of the row that `change` holds, and goes on when that is committed. */
async function during(
  change: string,
  values: readonly string[],
  command: () => Promise<unknown>,
): Promise<unknown> {
  const client = new Client({ connectionString: world.databaseUrl });
  await client.connect();
  await client.query('BEGIN');
  await client.query(change, [...values]);
  const answer = command();
  await waitFor(
    async () =>
      (
        await client.query(
          `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`,
        )
      ).rowCount === 1
        ? true
        : undefined,
    { what: 'the command to wait' },
  );
  await client.query('COMMIT');
  await client.end();
  return answer;
}
