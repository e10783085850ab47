import { afterEach, beforeEach, expect, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { BulkSupersededError, openBulkRun, stepBulkRun, type BulkRequest } from './bulk-runs.ts';
import { readClock } from './clock.ts';
import { createDb, type Db } from './pool.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 10, timeoutMs: 5_000, name: 'test' });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

/** A cancel asks for none. */
const noRules: BulkRequest['rules'] = {
  findFiles: () => undefined,
  makeAgain: ({ id: jobId }) => ({ jobId, code: 'unknown-task', message: '' }),
};

/** A bulk cancel of all jobs of the tenant, whose job is being run. */
async function startBulk(terms: BulkRequest['terms'] = []): Promise<BulkRequest> {
  const asOf = await readClock(db);
  const workerId = uuidv7();
  const jobId = await insertJob(db, { state: 'active', queue: 'bulk', startedAt: new Date(), workerId });
  await db.query('UPDATE jobs SET created_at = clock_timestamp() WHERE id = $1', [jobId]);
  const action = { type: 'cancel', reason: 'why' } as const;
  return { tenantId: 'default', jobId, fence: 0, workerId, action, terms, asOf, rules: noRules };
}

async function insertMany(count: number, tenantId = 'default'): Promise<void> {
  await db.query(
    `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
     SELECT uuid, $2, 't', 'q', 'queued', now(), now(), '{}', 1, 60000 FROM unnest($1::uuid[]) AS uuid`,
    [Array.from({ length: count }, (_, n) => uuidv7(Date.now() - count + n)), tenantId],
  );
}

async function countEvents(): Promise<number> {
  const { rows } = await db.query<{ count: number }>(
    `SELECT count(*) AS count FROM events WHERE type = 'job.cancelled'`,
  );
  return rows[0]?.count ?? 0;
}

test('pages are done one after the other, by any number of runs, each once', async () => {
  await insertMany(450);
  await insertMany(10, 'other');
  const request = await startBulk();
  const start = await openBulkRun(db, request.tenantId, request.jobId);
  const looks = await Promise.all([1, 2, 3].map(() => stepBulkRun(db, request, start)));
  // One did the page; the others were told where it is now.
  expect(looks.map(({ effects }) => effects.ended?.length ?? 0).toSorted((a, b) => a - b)).toEqual([
    0, 0, 200,
  ]);
  for (const { at } of looks) expect(at).toEqual(looks[0]?.at);
  let at = await openBulkRun(db, request.tenantId, request.jobId);
  expect(at).toEqual(looks[0]?.at);
  while (!at.isDone) ({ at } = await stepBulkRun(db, request, at));
  expect(at).toMatchObject({ matched: 450, done: 450, skipped: 0, errors: [] });
  expect(await countEvents()).toBe(450);
  // Once more changes nothing.
  expect((await stepBulkRun(db, request, at)).effects).toEqual({});
  const { rows } = await db.query(
    `SELECT count(*) AS count FROM jobs WHERE tenant_id = 'other' AND state = 'queued'`,
  );
  expect(rows).toEqual([{ count: 10 }]);
});

test('a run that does not own the job any more does nothing', async () => {
  await insertMany(5);
  const request = await startBulk();
  const start = await openBulkRun(db, request.tenantId, request.jobId);
  await db.query('UPDATE jobs SET fence = fence + 1 WHERE id = $1', [request.jobId]);
  await expect(stepBulkRun(db, request, start)).rejects.toThrow(BulkSupersededError);
  expect(await countEvents()).toBe(0);
  const next = await stepBulkRun(db, { ...request, fence: 1 }, start);
  expect(next.at).toMatchObject({ isDone: true, done: 5 });
});

test('ages are meant as of the time at which it was asked for, and what is made later is left alone', async () => {
  const [old, young] = [
    await insertJob(db, { createdAt: new Date(Date.now() - 5_400_000) }),
    await insertJob(db, { createdAt: new Date(Date.now() - 1_800_000) }),
  ];
  const request = await startBulk([
    { type: 'created', isNegated: false, alternatives: [[{ operator: '>', ageMs: 3_600_000 }]] },
  ]);
  // An hour ago the first was half an hour old, and the second was not there.
  const asOf = new Date(Date.now() - 3_600_000).toISOString();
  const earlier = { ...request, asOf };
  const start = await openBulkRun(db, request.tenantId, request.jobId);
  expect((await stepBulkRun(db, earlier, start)).at).toMatchObject({ isDone: true, matched: 0 });
  const later = await startBulk(request.terms);
  expect(
    (await stepBulkRun(db, later, await openBulkRun(db, later.tenantId, later.jobId))).effects.ended,
  ).toEqual([old]);
  const { rows } = await db.query('SELECT state FROM jobs WHERE id = $1', [young]);
  expect(rows).toEqual([{ state: 'queued' }]);
});
