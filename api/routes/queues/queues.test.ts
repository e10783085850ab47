import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { queueCountMax } from '#shared/db/queue-stats.ts';
import { registerWorker } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());
beforeEach(async () => {
  await api.db.query('DELETE FROM jobs');
  await api.db.query('DELETE FROM workers');
  await api.db.query('UPDATE queues SET is_paused = false, paused_at = NULL, pause_reason = NULL');
});

interface Queue {
  readonly name: string;
  readonly [key: string]: unknown;
}

async function queue(name: string): Promise<Queue | undefined> {
  const { data } = (await (await client.get('/v1/queues')).json()) as { data: Queue[] };
  return data.find((item) => item.name === name);
}

async function answerOf(promise: Promise<Response>): Promise<{ status: number; body: unknown }> {
  const response = await promise;
  return { status: response.status, body: await response.json() };
}

const addWorker = (slots: Record<string, number>) =>
  registerWorker(
    api.db,
    { id: uuidv7(), host: 'h', pid: 1, version: '0', slots, isolation: 'process' },
    60_000,
  );

describe('GET /v1/queues', () => {
  test('says of every queue what waits in it, what runs, and for how long the oldest has been waiting', async () => {
    await addWorker({ host: 2 });
    await addWorker({ host: 3, noop: 50 });
    const base = { queue: 'host', createdAt: new Date() };
    for (const state of ['scheduled', 'blocked', 'active', 'retrying', 'failed', 'succeeded'] as const)
      await insertJob(api.db, { ...base, state });
    const [oldest] = [await insertJob(api.db, base), await insertJob(api.db, base)];
    await api.db.query(
      `UPDATE jobs SET run_at = now() - interval '1 minute', created_at = now() - interval '1 minute' WHERE id = $1`,
      [oldest],
    );
    expect(await queue('host')).toEqual({
      name: 'host',
      paused: false,
      pausedAt: null,
      pauseReason: null,
      counts: { scheduled: 1, blocked: 1, queued: 2, active: 1, retrying: 1, failed: 1 },
      slots: 5,
      busy: 1,
      oldestWaitMs: expect.any(Number) as unknown,
    });
    const waitMs = Number((await queue('host'))?.['oldestWaitMs']);
    expect(waitMs).toBeGreaterThanOrEqual(60_000);
    expect(await queue('noop')).toMatchObject({ slots: 50, busy: 0, oldestWaitMs: 0 });
  });

  test('the oldest is found behind other tenants, and among what was handed to Redis', async () => {
    await api.db.query(`INSERT INTO tenants (id) VALUES ('zeta') ON CONFLICT DO NOTHING`);
    await insertJob(api.db, { queue: 'host' });
    const late = await insertJob(api.db, { queue: 'host', tenantId: 'zeta' });
    await api.db.query(
      `UPDATE jobs SET run_at = now() - interval '2 minutes', created_at = now() - interval '2 minutes' WHERE id = $1`,
      [late],
    );
    expect(Number((await queue('host'))?.['oldestWaitMs'])).toBeGreaterThanOrEqual(120_000);
    await api.db.query(`UPDATE jobs SET dispatched_at = now() WHERE id = $1`, [late]);
    expect(Number((await queue('host'))?.['oldestWaitMs'])).toBeGreaterThanOrEqual(120_000);
  });

  test.each([
    ['waits', ''],
    ['was handed to Redis', 'UPDATE jobs SET dispatched_at = now()'],
  ])(
    'a job that %s has not waited longer than it has been there, whatever its runAt says',
    async (_where, preparation) => {
      const id = await insertJob(api.db, { queue: 'host' });
      await api.db.query(
        `UPDATE jobs SET run_at = '0001-01-01T00:00:00Z', rank_at = '0001-01-01T00:00:00Z' WHERE id = $1`,
        [id],
      );
      await api.db.query(preparation);
      expect(Number((await queue('host'))?.['oldestWaitMs'])).toBeLessThan(3_600_000);
      // Nor longer than it has been due.
      await api.db.query(
        `UPDATE jobs SET run_at = now() - interval '1 minute', created_at = now() - interval '1 day' WHERE id = $1`,
        [id],
      );
      const waitMs = Number((await queue('host'))?.['oldestWaitMs']);
      expect(waitMs).toBeGreaterThanOrEqual(60_000);
      expect(waitMs).toBeLessThan(3_600_000);
    },
  );

  test('counting ends at a limit', async () => {
    await api.db.query(
      `INSERT INTO jobs (id, tenant_id, task, queue, state, run_at, rank_at, input, attempts_max, retention_ms)
       SELECT gen_random_uuid(), 'default', 't', 'host', 'queued', now(), now(), '{}', 1, 1000 FROM generate_series(1, $1)`,
      [queueCountMax + 1],
    );
    expect(await queue('host')).toMatchObject({ counts: { queued: queueCountMax } });
  });
});

describe('POST /v1/queues/{name}/pause and /resume', () => {
  test('the pause and its reason are kept until the resume, and both may be repeated', async () => {
    expect(await answerOf(client.post('/v1/queues/host/pause', { reason: 'deploy' }))).toMatchObject({
      status: 200,
      body: { name: 'host', paused: true, pauseReason: 'deploy', pausedAt: expect.any(String) as unknown },
    });
    const first = await queue('host');
    expect((await client.post('/v1/queues/host/pause')).status).toBe(200);
    expect(await queue('host')).toMatchObject({ pauseReason: 'deploy', pausedAt: first?.['pausedAt'] });
    // Jobs are still accepted.
    const id = await client.submit('test.echo', { value: 1 });
    expect(await client.job(id)).toMatchObject({ state: 'queued' });
    for (const _ of [1, 2])
      expect(await answerOf(client.post('/v1/queues/host/resume'))).toMatchObject({
        status: 200,
        body: { paused: false, pausedAt: null, pauseReason: null },
      });
  });

  test.each([[{ why: 'x' }], [{ reason: 'x'.repeat(1_001) }], [{ reason: 'a\0' }]])(
    '422: %j',
    async (body) => {
      expect((await client.post('/v1/queues/host/pause', body)).status).toBe(422);
      expect(await queue('host')).toMatchObject({ paused: false });
    },
  );
});

describe('POST /v1/queues/{name}/drain', () => {
  test("cancels the waiting jobs of the key's tenant, with the reason, and says how many", async () => {
    const beta = await api.client({ tenantId: 'beta' });
    const own = await client.submit('test.echo', { value: 1 }, { delayMs: 60_000 });
    const other = await beta.submit('test.echo', { value: 1 }, { delayMs: 60_000 });
    expect(await answerOf(client.post('/v1/queues/host/drain', { reason: 'sent twice' }))).toEqual({
      status: 200,
      body: { cancelled: 1, done: true },
    });
    expect(await client.job(own)).toMatchObject({ state: 'cancelled', cancelReason: 'sent twice' });
    expect(await beta.job(other)).toMatchObject({ state: 'scheduled' });
  });

  test('only an admin drains the jobs of all tenants, and only when he says so', async () => {
    const beta = await api.client({ tenantId: 'beta' });
    const id = await beta.submit('test.echo', { value: 1 }, { delayMs: 60_000 });
    expect((await client.post('/v1/queues/host/drain', { allTenants: true })).status).toBe(403);
    expect(await answerOf(api.admin.post('/v1/queues/host/drain'))).toMatchObject({ body: { cancelled: 0 } });
    expect(await beta.job(id)).toMatchObject({ state: 'scheduled' });
    expect(await answerOf(api.admin.post('/v1/queues/host/drain', { allTenants: true }))).toMatchObject({
      body: { cancelled: 1 },
    });
    expect(await beta.job(id)).toMatchObject({ state: 'cancelled' });
  });
});

describe('GET /v1/queues/{name}/autoscale', () => {
  const autoscale = (query = '') => answerOf(client.get(`/v1/queues/host/autoscale${query}`));

  test('says how many workers could work on what waits and runs', async () => {
    for (let n = 0; n < 5; n += 1) await insertJob(api.db, { queue: 'host' });
    await insertJob(api.db, { queue: 'host', state: 'active' });
    expect(await autoscale()).toMatchObject({ status: 200, body: { backlog: 5, busy: 1, desired: 6 } });
    await addWorker({ host: 4 });
    expect(await autoscale()).toMatchObject({ body: { desired: 2 } });
    expect(await autoscale('?jobsPerWorker=100')).toMatchObject({ body: { desired: 1 } });
    await client.post('/v1/queues/host/pause');
    expect(await autoscale('?jobsPerWorker=1')).toMatchObject({ body: { backlog: 5, desired: 1 } });
  });

  test('an empty queue wants none', async () => {
    expect(await autoscale()).toEqual({
      status: 200,
      body: { backlog: 0, busy: 0, oldestWaitMs: 0, desired: 0 },
    });
  });

  test.each(['?jobsPerWorker=0', '?jobs=1'])('400: %s', async (query) => {
    expect((await autoscale(query)).status).toBe(400);
  });
});

describe('404', () => {
  test.each(['pause', 'resume', 'drain'])(
    '%s of a queue that does not exist names the nearest',
    async (verb) => {
      expect(await answerOf(client.post(`/v1/queues/hots/${verb}`))).toMatchObject({
        status: 404,
        body: { code: 'not-found', detail: expect.stringContaining('"host"') as unknown },
      });
      expect((await client.post(`/v1/queues/${encodeURIComponent('a\0b')}/${verb}`)).status).toBe(404);
    },
  );
});
