import { Client } from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { createDb } from '#shared/db/pool.ts';
import { registerWorker } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createLogger } from '#shared/log.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';
import { createRuns } from '../runs.ts';
import { createLeaseKeeper } from './lease-keeper.ts';

test('nobody is judged before renewals have worked for a whole lease, nor after one whose answer took long', async () => {
  const { keeper, holder, leaseMs } = await setup();
  const startedAt = Date.now();
  keeper.start();
  const deadBefore = await waitFor(() => keeper.deadBefore(), { what: 'renewals to be steady' });
  expect(deadBefore.getTime()).toBeGreaterThanOrEqual(startedAt + leaseMs - 100);
  // Postgres stands still: the renewal that is under way is answered after everybody's lease has ended.
  await holder.query('BEGIN');
  await holder.query('LOCK TABLE workers IN ACCESS EXCLUSIVE MODE');
  await waitFor(() => (keeper.silentMs() > 3_000 ? true : undefined), { what: 'the silence' });
  await holder.query('ROLLBACK');
  await waitFor(() => (keeper.deadBefore() === undefined ? true : undefined), {
    what: 'the keeper to judge nobody',
  });
  const again = await waitFor(() => keeper.deadBefore(), { what: 'renewals to be steady again' });
  expect(again.getTime()).toBeGreaterThanOrEqual(deadBefore.getTime() + 3_000);
});

test('a worker that was declared dead leaves once, although it goes on renewing until it has stopped', async () => {
  let deaths = 0;
  const { keeper, holder } = await setup(() => {
    deaths += 1;
  });
  await holder.query('UPDATE workers SET reaped_at = now()');
  keeper.start();
  await waitFor(() => (deaths > 0 ? true : undefined), { what: 'the worker to learn that it is dead' });
  const since = performance.now();
  // An answer that comes after now is one to a further renewal.
  await waitFor(() => (keeper.silentMs() < performance.now() - since ? true : undefined), {
    what: 'another renewal',
  });
  expect(deaths).toBe(1);
});

async function setup(onDead: () => void = () => expect.fail('Nobody else is there to declare it dead.')) {
  const leaseMs = 2_000;
  const world = await createWorld();
  const db = createDb({ url: world.databaseUrl, size: 2, timeoutMs: 10_000, name: 'lease-keeper-test' });
  const holder = new Client({ connectionString: world.databaseUrl });
  await holder.connect();
  const workerId = uuidv7();
  await registerWorker(
    db,
    { id: workerId, host: 'here', pid: 1, version: '0', slots: {}, isolation: 'process' },
    leaseMs,
  );
  const keeper = createLeaseKeeper({
    db,
    workerId,
    leaseMs,
    runs: createRuns(),
    onQuiet: () => {},
    onDead,
    log: createLogger({ service: 'test', level: 'silent' }),
  });
  onTestFinished(async () => {
    await keeper.stop();
    await holder.end();
    await db.end();
    await world.dispose();
  });
  return { keeper, holder, leaseMs };
}
