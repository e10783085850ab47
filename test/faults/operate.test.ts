/** Operating the service while it works: pausing, quieting workers, and clocks that are wrong. */
import { pathToFileURL } from 'node:url';
import { resolve } from 'node:path';
import { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { parseLine } from '#test/support/check-log.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { outcomesOf } from './expect-jobs.ts';

const post = async (system: System, path: string): Promise<void> => {
  const response = await system.client.post(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
};

test.concurrent('after a pause nothing of the queue starts, not even what Redis holds; what runs goes on; all runs after the resume', () =>
  withSystem({ env: { WINDLASS_QUEUES: 'host:2,noop:2' } }, async (system) => {
    await system.startWorker();
    const running = [await system.submitGated(), await system.submitGated()];
    await system.started(running);
    const waiting = await Promise.all(
      Array.from({ length: 6 }, (_, n) => system.submit('test.echo', { value: n })),
    );
    const redis = new Redis(system.world.redisUrl);
    system.onEnd(() => redis.disconnect());
    const key = `${system.world.redisPrefix}:host`;
    await waitFor(async () => ((await redis.llen(`${key}:wait`)) > 0 ? true : undefined), {
      what: 'deliveries to wait in Redis',
    });
    await post(system, '/v1/queues/host/pause');
    system.openGate();
    for (const job of await system.finished(running)) expect(job.state).toBe('succeeded');
    // The slots are free: every delivery is taken, and finds nothing.
    await waitFor(
      async () =>
        (await redis.llen(`${key}:wait`)) + (await redis.llen(`${key}:active`)) === 0 ? true : undefined,
      { what: 'the deliveries to be taken' },
    );
    const late = await system.submit('test.echo', { value: 7 });
    // Other queues are not paused.
    expect((await system.finished([await system.submit('test.noop')]))[0]?.state).toBe('succeeded');
    const { rows } = await system.db.query<{ now: Date }>('SELECT now()');
    for (const id of [...waiting, late])
      expect(await system.client.job(id)).toMatchObject({ state: 'queued', attempts: [] });
    await post(system, '/v1/queues/host/resume');
    for (const job of await system.finished()) expect(outcomesOf(job)).toEqual(['succeeded']);
    const early = await system.db.query(
      'SELECT job_id FROM attempts WHERE job_id = ANY($1) AND started_at < $2',
      [[...waiting, late], rows[0]?.now],
    );
    expect(early.rows).toEqual([]);
  }));

test.concurrent('a job that came too late expires also in a queue that no worker serves', () =>
  withSystem({ env: { WINDLASS_QUEUES: 'noop:1' } }, async (system) => {
    await system.startWorker();
    const ids = [
      await system.submit('test.echo', { value: 1 }, { startWithinMs: 1 }),
      await system.submit('test.noop', {}, { delayMs: 10, startWithinMs: 60_000 }),
    ];
    expect(await system.finished(ids)).toMatchObject([
      { queue: 'host', state: 'failed', error: { code: 'expired' }, attempts: [] },
      { queue: 'noop', state: 'succeeded' },
    ]);
  }));

test.concurrent('F39: a queue that was paused for an hour runs in the order of priority and age after the resume; only what had to start by then has expired', () =>
  withSystem({ env: { WINDLASS_QUEUES: 'noop:1' } }, async (system) => {
    await system.startWorker();
    await post(system, '/v1/queues/noop/pause');
    const priorities = [0, 9, 3, 0, 5, 1, 0, 9, 2, 0, 7, 4];
    for (const priority of priorities) await system.submit('test.noop', {}, { priority });
    const perishable = await system.submit('test.noop', {}, { startWithinMs: 30 * 60_000 });
    // An hour passes; the jobs came at different times of it.
    await system.db.query(
      `UPDATE jobs j SET run_at = run_at - o.offset, rank_at = rank_at - o.offset, start_before = start_before - o.offset
       FROM (SELECT id, interval '1 hour' - row_number() OVER (ORDER BY id) * interval '47 s' AS offset FROM jobs) o WHERE o.id = j.id`,
    );
    expect(await system.finished([perishable])).toMatchObject([
      { state: 'failed', error: { code: 'expired' }, attempts: [] },
    ]);
    await post(system, '/v1/queues/noop/resume');
    await system.finished();
    const ranked = await system.db.query<{ id: string }>(
      `SELECT id FROM jobs WHERE state = 'succeeded' ORDER BY rank_at, id`,
    );
    const begun = await system.db.query<{ id: string }>(
      `SELECT job_id AS id FROM attempts ORDER BY started_at`,
    );
    expect(begun.rows).toHaveLength(priorities.length);
    expect(begun.rows).toEqual(ranked.rows);
  }));

test.concurrent('a quiet worker takes nothing new, not even what it had asked Redis for, and runs what it has to the end', () =>
  // A long lease: were the other worker taken for dead, on a machine that is busy with other tests, nobody would be left.
  withSystem({ env: { WINDLASS_QUEUES: 'host:4,noop:4', WINDLASS_LEASE_MS: '60000' } }, async (system) => {
    const quiet = await system.startWorker();
    const [{ id: quietId } = { id: '' }] = await workers(system);
    const running = await system.submitGated();
    await system.started([running]);
    await post(system, `/v1/workers/${quietId}/quiet`);
    await waitFor(() => (quiet.lines.some((line) => line.includes('takes nothing new')) ? true : undefined), {
      what: 'the worker to hear of it',
    });
    // It is the only one: BullMQ's request for the next delivery, made before, is answered with one of these.
    const ids: string[] = [];
    for (let n = 0; n < 4; n += 1)
      ids.push(await system.submit('test.echo', { value: n }), await system.submit('test.noop'));
    await system.startWorker();
    const other = (await workers(system)).find((worker) => worker.id !== quietId)?.id;
    for (const job of await system.finished(ids))
      expect([job.state, job.attempts.map((attempt) => attempt.worker)]).toEqual(['succeeded', [other]]);
    expect(await workers(system)).toContainEqual({ id: quietId, state: 'quiet', jobs: [running] });
    system.openGate();
    expect((await system.finished([running]))[0]?.attempts).toMatchObject([
      { worker: quietId, outcome: 'succeeded' },
    ]);
    await post(system, `/v1/workers/${quietId}/unquiet`);
    await post(system, `/v1/workers/${other}/quiet`);
    await waitFor(() => (quiet.lines.some((line) => line.includes('takes jobs again')) ? true : undefined), {
      what: 'the worker to hear of it',
    });
    const [job] = await system.finished([await system.submit('test.echo', { value: 5 })]);
    expect(job?.state).toBe('succeeded');
  }));

async function workers(system: System): Promise<{ id: string; state: string; jobs: string[] }[]> {
  const { data } = (await (await system.client.get('/v1/workers')).json()) as {
    data: { id: string; state: string; jobs: string[] }[];
  };
  return data.map(({ id, state, jobs }) => ({ id, state, jobs }));
}

const hourMs = 3_600_000;

/** Far less than an hour, and far more than a busy machine holds a process up. */
const leaseMs = 12_000;

async function countLongLived({ db }: System): Promise<number | undefined> {
  const { rows } = await db.query<{ count: number }>(
    `SELECT count(*) AS count FROM workers WHERE renewed_at - started_at > $1 * interval '1.2 ms'`,
    [leaseMs],
  );
  return rows[0]?.count;
}

/** Environment of a process whose clock is wrong. */
const clock = (shiftMs: number) => ({
  NODE_OPTIONS: `--import=${pathToFileURL(resolve(import.meta.dirname, '../fixtures/shift-clock.ts')).href}`,
  TEST_CLOCK_SHIFT_MS: String(shiftMs),
});

for (const { api, where } of [
  { api: hourMs, where: 'of the api is an hour ahead' },
  { api: -hourMs, where: 'of the api is an hour behind' },
]) {
  test.concurrent(`F57: with workers an hour ahead and behind, when the clock ${where}, no job runs early, late or twice`, () =>
    withSystem({ env: { ...clock(api), WINDLASS_LEASE_MS: String(leaseMs) } }, async (system) => {
      await Promise.all([system.startWorker(clock(hourMs)), system.startWorker(clock(-hourMs))]);
      // Otherwise this proves nothing.
      const said = parseLine(system.api.lines.at(-1) ?? '')?.time ?? '';
      expect(Math.abs(Date.parse(said) - (Date.now() + api))).toBeLessThan(hourMs / 2);
      const running = await system.submitGated();
      await system.started([running]);
      const later = await system.submit('test.noop', {}, { delayMs: hourMs / 2 });
      const perishable = await system.submit('test.noop', {}, { delayMs: 1_500, startWithinMs: hourMs / 2 });
      const ids = [
        await system.submit('test.noop'),
        await system.submit('test.echo', { value: 1 }),
        await system.submit('test.noop', {}, { delayMs: 1_500 }),
        await system.submit('test.noop', {}, { runAt: new Date(Date.now() + 1_500).toISOString() }),
        await system.submit('test.fail', { how: 'error', succeedsAt: 2 }, { attempts: 2 }),
        perishable,
      ];
      for (const job of await system.finished(ids)) expect(job.state).toBe('succeeded');
      expect(await system.client.job(later)).toMatchObject({ state: 'scheduled', attempts: [] });
      // By then each of the workers would have judged the other one.
      await waitFor(async () => ((await countLongLived(system)) === 2 ? true : undefined), {
        what: 'both workers to have lived longer than a lease',
      });
      system.openGate();
      expect(outcomesOf((await system.finished([running]))[0])).toEqual(['succeeded']);
      await post(system, `/v1/jobs/${later}/cancel`);
      const { rows } = await system.db.query(
        `SELECT j.id FROM jobs j JOIN LATERAL (SELECT min(started_at) AS at FROM attempts a WHERE a.job_id = j.id) AS first ON true
         WHERE first.at < j.created_at + coalesce((j.options->>'delayMs')::integer, 0) * interval '1 ms'
           OR first.at < (j.options->>'runAt')::timestamptz OR (j.attempts_used = 2 AND j.started_at < j.run_at)`,
      );
      expect(rows).toEqual([]);
    }));
}
