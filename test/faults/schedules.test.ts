import { Client } from 'pg';
import { expect, test } from 'vitest';
import {
  createClient,
  startApi,
  startWorker,
  type ApiProcess,
  type ServiceProcess,
} from '#test/support/service.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld } from '#test/support/world.ts';

test('F79: three workers, one of them killed: every tick of a schedule is one job, and every job ends well', async () => {
  const world = await createWorld();
  const db = new Client({ connectionString: world.databaseUrl });
  const started: (ApiProcess | ServiceProcess)[] = [];
  try {
    await db.connect();
    const api = await startApi(world);
    started.push(api);
    const workers = await Promise.all([0, 1, 2].map(() => startWorker(world)));
    started.push(...workers);
    const client = createClient(api.url);
    const put = (json: unknown) => client.request('PUT', '/v1/schedules/tick', { json });
    const schedule = { task: 'test.noop', everyMs: 1_000, misfire: 'run-all' };
    expect((await put(schedule)).status).toBe(201);

    const countJobs = async () => (await db.query('SELECT FROM jobs')).rowCount ?? 0;
    const waitForJobs = (count: number) =>
      waitFor(async () => ((await countJobs()) >= count ? true : undefined), { what: `${count} jobs` });
    await waitForJobs(3);
    await workers[0]?.kill('SIGKILL');
    await waitForJobs(6);
    // All of them gone, and one back: what was missed is made up for.
    await Promise.all(workers.map((worker) => worker.kill('SIGKILL')));
    const before = await countJobs();
    await waitFor(
      async () => {
        const { rows } = await db.query<{ late: boolean }>(
          `SELECT next_due_at < now() - interval '2 s' AS late FROM schedules`,
        );
        return rows[0]?.late === true ? true : undefined;
      },
      { what: 'three missed ticks' },
    );
    started.push(await startWorker(world));
    await waitForJobs(before + 3);
    expect((await put({ ...schedule, paused: true })).status).toBe(200);

    const { rows } = await db.query<{ id: string; due: number }>(
      `SELECT j.id, (extract(epoch FROM t.due_at) * 1000)::float8 AS due
       FROM jobs j LEFT JOIN schedule_ticks t ON t.job_id = j.id ORDER BY t.due_at`,
    );
    const first = rows[0]?.due ?? 0;
    expect(rows.map((row) => row.due)).toEqual(rows.map((_, index) => first + index * 1_000));
    for (const row of rows)
      expect(await client.finished(row.id)).toMatchObject({ state: 'succeeded', schedule: 'tick' });
  } finally {
    await Promise.all(started.map((process) => process.kill('SIGKILL')));
    await db.end();
    await world.dispose();
  }
});
