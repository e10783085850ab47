import { expect, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { startFaultProxy } from '#test/support/fault-proxy.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';
import { createClaimJobs } from './claim-jobs.ts';
import { createDb, createHotDb, inTransaction, toAppError } from './pool.ts';
import { settleRuns } from './settle-runs.ts';
import { registerWorker } from './workers.ts';

test('a statement planned while the tables were empty reads no table from end to end when they are full', async () => {
  const world = await createWorld();
  const db = createHotDb({ url: world.databaseUrl, size: 1, timeoutMs: 5_000, name: 'test' });
  const worker = { id: uuidv7(), host: 'h', pid: 1, version: '1', slots: {}, isolation: 'process' } as const;
  await registerWorker(db, worker, 60_000);
  // Now the planner believes that the tables hold nothing.
  await db.query('VACUUM jobs, job_inputs, files');
  const job = { jobId: uuidv7(), fence: 1, workerId: worker.id };
  await createClaimJobs(db, { id: worker.id, tasks: ['t'] }).add(job);
  const settlement = {
    state: 'succeeded',
    attemptsUsed: 1,
    crashes: 0,
    delayMs: 0,
    error: undefined,
    outcome: 'succeeded',
  } as const;
  await settleRuns(db, [{ ...job, settlement, result: null, outputs: [] }]);
  await db.query(
    `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
     SELECT gen_random_uuid(), 'default', 't', 'q', 'queued', now(), now(), '{}', 3, 60000 FROM generate_series(1, 2000)`,
  );
  const claim = await explain(`"claim-jobs" ('{${job.jobId}}', '{1}', '${worker.id}', '{t}', '{}')`);
  expect(claim).toContain('Index Scan using jobs_pkey on jobs');
  expect(claim).not.toMatch(/Seq Scan on (jobs|job_inputs|files)/);
  const settle = await explain(
    `"settle-runs" ('{${job.jobId}}', '{1}', '{succeeded}', '{null}', '{null}', '{0}', '{1}', '{0}', '{succeeded}', '{${worker.id}}')`,
  );
  expect(settle).toContain('Index Scan using jobs_pkey on jobs');
  expect(settle).not.toMatch(/Seq Scan on (jobs|job_inputs|files)/);
  expect(settle, 'all active jobs, for each of the group').not.toContain('jobs_active');
  await db.end();
  await world.dispose();

  async function explain(execution: string): Promise<string> {
    const { rows } = await db.query<{ 'QUERY PLAN': string }>(`EXPLAIN (COSTS off) EXECUTE ${execution}`);
    return rows.map((row) => row['QUERY PLAN']).join('\n');
  }
});

test('F52: a query of a request that outlived the pool of a stopping process is an outage, and no error of ours', async () => {
  const world = await createWorld();
  const db = createDb({ url: world.databaseUrl, size: 1, timeoutMs: 5_000, name: 'test' });
  await db.end();
  const err = await db.query('SELECT 1').catch((reason: unknown) => toAppError(reason));
  expect(err).toMatchObject({ code: 'unavailable' });
  await world.dispose();
});

test('F61: a transaction whose connection swallows everything ends with the first answer that does not come, and asks nothing more', async () => {
  const world = await createWorld();
  const proxy = await startFaultProxy(Number(new URL(world.databaseUrl).port));
  const db = createDb({ url: proxy.url(world.databaseUrl), size: 2, timeoutMs: 5_000, name: 'test' });
  // Two connections, so that both statements are on their way at once.
  await Promise.all([db.query('SELECT pg_sleep(0.1)'), db.query('SELECT pg_sleep(0.1)')]);
  let clock: Promise<string> = Promise.resolve('');
  const transaction = inTransaction(db, (client) => {
    proxy.swallow(['up', 'down']);
    clock = endOf(db.query(within(8_000, 'SELECT 2')));
    return client.query(within(500, 'SELECT 1'));
  });
  await waitFor(() => (proxy.swallowedBytes() > 0 ? true : undefined), { what: 'bytes to be swallowed' });
  const first = await Promise.race([endOf(transaction), clock.then(() => 'still rolling back')]);
  expect(first).toBe('Error: Query read timeout');
  await clock;
  await db.end();
  await proxy.close();
  await world.dispose();
});

test('a transaction that Postgres ended, because this process stood still in it, can be tried again', async () => {
  const world = await createWorld();
  const db = createDb({ url: world.databaseUrl, size: 2, timeoutMs: 5_000, name: 'test' });
  const err = await inTransaction(db, async (client) => {
    await client.query(`SET LOCAL idle_in_transaction_session_timeout = '100 ms'`);
    // Nothing arrives meanwhile, so that the next statement is sent to whom has hung up.
    const until = performance.now() + 500;
    while (performance.now() < until);
    await client.query('SELECT 1');
  }).catch(toAppError);
  expect(err).toMatchObject({ code: 'unavailable', cause: { code: '25P03' } });
  expect((await db.query('SELECT 1')).rowCount).toBe(1);
  await db.end();
  await world.dispose();
});

test('a connection that Postgres ended in the middle of a transaction is not given out again, even if it seems open', async () => {
  const world = await createWorld();
  const proxy = await startFaultProxy(Number(new URL(world.databaseUrl).port));
  const db = createDb({ url: proxy.url(world.databaseUrl), size: 1, timeoutMs: 5_000, name: 'test' });
  const err = await inTransaction(db, async (client) => {
    await client.query(`SET LOCAL idle_in_transaction_session_timeout = '300 ms'`);
    // Postgres hears nothing more, and what it says last arrives; that it hangs up does not.
    proxy.swallow(['up']);
    await client.query('SELECT 1');
  }).catch(toAppError);
  expect(err).toMatchObject({ cause: { code: '25P03' } });
  proxy.heal();
  expect((await db.query('SELECT 1')).rowCount).toBe(1);
  await db.end();
  await proxy.close();
  await world.dispose();
});

function endOf(work: Promise<unknown>): Promise<string> {
  return work.then(() => 'done', String);
}

/** node-postgres takes a time limit with each query, which its types do not know. */
function within(ms: number, text: string) {
  return { text, query_timeout: ms };
}
