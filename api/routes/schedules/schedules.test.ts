import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { scheduleSchema, scheduleSummarySchema } from '#api/present-schedule.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi({ WINDLASS_SCHEDULES_PER_TENANT_MAX: '30' });
  client = await api.client();
});
afterAll(() => api.dispose());

interface Schedule {
  readonly key: string;
  readonly nextRuns: string[];
  readonly lastJob: { id: string; state: string } | null;
  readonly links: { self: string; trigger: string };
  readonly [field: string]: unknown;
}

const daily = { task: 'test.echo', input: { value: 1 }, cron: '30 2 * * *', timezone: 'Europe/Berlin' };

const put = (key: string, json: unknown, by: TestClient = client) =>
  by.request('PUT', `/v1/schedules/${key}`, { json });
async function make(json: unknown = daily, key = `k-${randomUUID()}`): Promise<Schedule> {
  const response = await put(key, json);
  expect(response.status).toBe(201);
  return (await response.json()) as Schedule;
}
async function get(key: string): Promise<Schedule> {
  const response = await client.get(`/v1/schedules/${key}`);
  expect(response.status).toBe(200);
  return (await response.json()) as Schedule;
}
const remove = (key: string) => client.request('DELETE', `/v1/schedules/${key}`);

async function upload(): Promise<string> {
  const headers = { 'content-type': 'text/plain' };
  const response = await client.request('POST', '/v1/files', { body: 'text', headers });
  return ((await response.json()) as { id: string }).id;
}

describe('PUT /v1/schedules/{key} 201', () => {
  test('the answer says when it runs, in words and times', async () => {
    const key = 'nightly:report@v1.2_x-y';
    const response = await put(key, daily);
    expect(response.status).toBe(201);
    expect(response.headers.get('location')).toBe(`/v1/schedules/${encodeURIComponent(key)}`);
    const made = (await response.json()) as Schedule;
    expect(scheduleSchema.strict().safeParse(made).error).toBeUndefined();
    expect(made).toMatchObject({
      key,
      task: 'test.echo',
      input: { value: 1 },
      options: {},
      cron: '30 2 * * *',
      timezone: 'Europe/Berlin',
      everyMs: null,
      description: 'At 02:30 (Europe/Berlin)',
      misfire: 'run-once',
      overlap: 'allow',
      paused: false,
      lastTick: null,
      lastJob: null,
      error: null,
    });
    expect(made.nextRuns).toHaveLength(5);
    for (const run of made.nextRuns) {
      expect(new Date(run).getTime()).toBeGreaterThan(Date.now());
      const wall = new Intl.DateTimeFormat('de', { timeZone: 'Europe/Berlin', timeStyle: 'short' });
      expect(wall.format(new Date(run))).toBe('02:30');
    }
    expect((await client.get(made.links.self)).status).toBe(200);
    await remove(key);
  });

  test('an interval begins one interval from now', async () => {
    const before = Date.now();
    const made = await make({ task: 'test.noop', everyMs: 90_000, misfire: 'skip', overlap: 'skip' });
    expect(made).toMatchObject({
      everyMs: 90_000,
      cron: null,
      timezone: null,
      description: 'Every 1 minute 30 seconds',
      misfire: 'skip',
      overlap: 'skip',
      input: {},
    });
    const runs = made.nextRuns.map((run) => new Date(run).getTime());
    expect(runs[0]).toBeGreaterThanOrEqual(before + 90_000 - 1_000);
    expect(runs.map((run) => run - (runs[0] ?? 0))).toEqual([0, 90_000, 180_000, 270_000, 360_000]);
  });

  test('options are kept as they were sent', async () => {
    const made = await make({ ...daily, options: { tags: ['a'], attempts: 2 } });
    expect(made['options']).toEqual({ tags: ['a'], attempts: 2 });
  });
});

describe('PUT /v1/schedules/{key} 200', () => {
  test('the same again is no change, something else is one', async () => {
    const made = await make({ task: 'test.noop', everyMs: 60_000 });
    const same = await put(made.key, { task: 'test.noop', everyMs: 60_000 });
    expect(same.status).toBe(200);
    expect(((await same.json()) as Schedule).nextRuns).toEqual(made.nextRuns);
    const other = await put(made.key, { ...daily, paused: true });
    expect(other.status).toBe(200);
    expect(await other.json()).toMatchObject({
      cron: '30 2 * * *',
      everyMs: null,
      paused: true,
      nextRuns: [],
    });
  });
});

describe('PUT /v1/schedules/{key} 4xx', () => {
  const noop = { task: 'test.noop' };
  test.each([
    [{ ...noop }, '/cron'],
    [{ ...noop, cron: '* * * * *', everyMs: 1_000 }, '/cron'],
    [{ ...noop, everyMs: 999 }, '/everyMs'],
    [{ ...noop, everyMs: 1_000, timezone: 'UTC' }, '/timezone'],
    [{ ...noop, cron: '* * * *' }, '/cron'],
    [{ ...noop, cron: '@daily' }, '/cron'],
    [{ ...noop, cron: '0 0 30 2 *' }, '/cron'],
    [{ ...noop, cron: '* * * * *', timezone: 'Mars/Olympus' }, '/timezone'],
    [{ ...noop, cron: '* * * * *', misfire: 'maybe' }, '/misfire'],
    [{ ...noop, cron: '* * * * *', colour: 'red' }, '/colour'],
    [{ ...noop, cron: '* * * * *', options: { runAt: '2030-01-01T00:00:00Z' } }, '/options/runAt'],
    [{ ...noop, cron: '* * * * *', options: { attempts: 11 } }, '/options/attempts'],
    [{ ...noop, cron: '* * * * *', options: { priority: 10 } }, '/options/priority'],
    [{ task: 'image.resize', input: { width: 5 }, cron: '* * * * *' }, '/input/file'],
  ])('422: %j', async (json, pointer) => {
    const response = await put('refused', json);
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: 'invalid-input', errors: [{ pointer }] });
    expect((await client.get('/v1/schedules/refused')).status).toBe(404);
  });

  test('422: an unknown task, a file that is not there', async () => {
    const unknown = await put('refused', { ...daily, task: 'test.ecko' });
    expect(await unknown.json()).toMatchObject({ code: 'unknown-task', status: 422 });
    const missing = await put('refused', { ...daily, task: 'test.files', input: { file: randomUUID() } });
    expect(await missing.json()).toMatchObject({
      code: 'file-not-found',
      status: 422,
      errors: [{ pointer: '/input/file' }],
    });
  });

  test.each(['-a', 'a%2Fb', 'a%20b', 'x'.repeat(101), '%C3%A4'])('400: the key %s', async (key) => {
    const response = await put(key, daily);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'bad-request' });
  });

  test('409: more than a tenant may have', async () => {
    const other = await api.client({ tenantId: 'many' });
    const made = await Promise.all(Array.from({ length: 30 }, (_, index) => put(`k${index}`, daily, other)));
    expect(new Set(made.map((response) => response.status))).toEqual(new Set([201]));
    const response = await put('one-more', daily, other);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({
      code: 'too-many-schedules',
      detail: expect.stringContaining('WINDLASS_SCHEDULES_PER_TENANT_MAX') as unknown,
    });
    expect((await put('k3', daily, other)).status).toBe(200);
  });
});

describe('GET /v1/schedules 200', () => {
  test('lists every schedule once, in the order of their keys, without what may be large', async () => {
    const other = await api.client({ tenantId: 'listed' });
    const keys = ['b', 'a', 'c', 'd2', 'd1'];
    for (const key of keys) await put(key, daily, other);
    const seen: Record<string, unknown>[] = [];
    let path: string | undefined = '/v1/schedules?limit=2';
    while (path !== undefined) {
      const page = (await (await other.get(path)).json()) as {
        data: Record<string, unknown>[];
        nextCursor: string | null;
      };
      seen.push(...page.data);
      path = page.nextCursor === null ? undefined : `/v1/schedules?limit=2&cursor=${page.nextCursor}`;
    }
    expect(seen.map((schedule) => schedule['key'])).toEqual(keys.toSorted());
    for (const schedule of seen)
      expect(scheduleSummarySchema.strict().safeParse(schedule).error).toBeUndefined();
  });

  test('400 for a cursor that was made up', async () => {
    const response = await client.get('/v1/schedules?cursor=AAAA');
    expect(await response.json()).toMatchObject({ status: 400, code: 'invalid-cursor' });
  });
});

describe('POST /v1/schedules/{key}/trigger', () => {
  test('202: a job of the schedule, also while it is paused, which leaves its times alone', async () => {
    const made = await make({ ...daily, paused: true, options: { tags: ['nightly'] } });
    const response = await client.post(made.links.trigger);
    expect(response.status).toBe(202);
    const job = (await response.json()) as { id: string; state: string };
    expect(response.headers.get('location')).toBe(`/v1/jobs/${job.id}`);
    expect(job).toMatchObject({ task: 'test.echo', schedule: made.key, tags: ['nightly'], state: 'queued' });
    expect(await (await client.get(`/v1/jobs/${job.id}`)).json()).toMatchObject({ schedule: made.key });
    expect(await get(made.key)).toMatchObject({
      lastJob: { id: job.id, state: 'queued' },
      lastTick: null,
      nextRuns: [],
    });
    const found = (await (await client.get(`/v1/jobs?q=schedule:${made.key}`)).json()) as {
      data: { id: string }[];
    };
    expect(found.data.map(({ id }) => id)).toEqual([job.id]);
  });

  test('the same Idempotency-Key is one job, also when the schedule has changed', async () => {
    const made = await make();
    const headers = { 'idempotency-key': randomUUID() };
    const first = (await (await client.post(made.links.trigger, undefined, headers)).json()) as {
      id: string;
    };
    await put(made.key, { ...daily, input: { value: 2 } });
    const again = await client.post(made.links.trigger, undefined, headers);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(await again.json()).toMatchObject({ id: first.id, schedule: made.key });
    const other = await make();
    expect((await client.post(other.links.trigger, undefined, headers)).status).toBe(422);
  });

  test('422 when its task is gone', async () => {
    const made = await make();
    await api.db.query(`UPDATE schedules SET task = 'test.gone' WHERE key = $1`, [made.key]);
    const response = await client.post(made.links.trigger);
    expect(await response.json()).toMatchObject({ status: 422, code: 'unknown-task' });
    // What it was is still shown.
    expect(await get(made.key)).toMatchObject({ task: 'test.gone' });
  });
});

describe('DELETE /v1/schedules/{key}', () => {
  test('204: it is gone, its jobs are not, and its files may go', async () => {
    const file = await upload();
    const made = await make({ task: 'test.files', input: { file }, everyMs: 60_000 });
    const deleting = await client.request('DELETE', `/v1/files/${file}`);
    expect(await deleting.json()).toMatchObject({ code: 'file-in-use', status: 409 });
    const job = (await (await client.post(made.links.trigger)).json()) as { id: string };
    expect((await remove(made.key)).status).toBe(204);
    expect((await client.get(made.links.self)).status).toBe(404);
    expect(await (await client.get(`/v1/jobs/${job.id}`)).json()).toMatchObject({ schedule: made.key });
    await client.post(`/v1/jobs/${job.id}/cancel`);
    expect((await client.request('DELETE', `/v1/files/${file}`)).status).toBe(204);
  });

  test('404 for one that is not there, whatever the call', async () => {
    for (const key of ['nothing', 'a%2Fb']) {
      expect((await remove(key)).status).toBe(404);
      expect((await client.get(`/v1/schedules/${key}`)).status).toBe(404);
      expect((await client.post(`/v1/schedules/${key}/trigger`)).status).toBe(404);
    }
  });
});
