import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bulkActions } from '#tasks/jobs-bulk/task.ts';
import { createTestApi, type TestApi, type TestClient } from '#test/support/api.ts';
import { insertJob } from '#test/support/insert-job.ts';

let api: TestApi;
let client: TestClient;
beforeAll(async () => {
  api = await createTestApi();
  client = await api.client();
});
afterAll(() => api.dispose());

const send = (body: unknown, headers?: Record<string, string>) => client.post('/v1/bulk', body, headers);

async function snapshot(): Promise<unknown> {
  return (await api.db.query('SELECT to_jsonb(j) FROM jobs j ORDER BY id')).rows;
}

describe('200: a dry run', () => {
  test('counts and shows the newest, and changes nothing', async () => {
    const ids: string[] = [];
    for (let n = 0; n < 12; n += 1) ids.push(await insertJob(api.db, { tags: ['dry'] }));
    await insertJob(api.db, { tags: ['dry'], tenantId: 'other' });
    const before = await snapshot();
    const response = await send({ action: 'cancel', q: 'tag:dry', dryRun: true });
    expect(response.status).toBe(200);
    const found = (await response.json()) as { sample: { id: string }[] };
    expect(found).toMatchObject({ action: 'cancel', q: 'tag:dry', matched: 12, isExact: true });
    expect(found.sample.map((job) => job.id)).toEqual(ids.toReversed().slice(0, 10));
    expect(await snapshot()).toEqual(before);
    expect(await (await send({ action: 'cancel', q: 'tag:none', dryRun: true })).json()).toMatchObject({
      matched: 0,
      sample: [],
    });
  });
});

describe('200: a dry run of each action', () => {
  test.each(bulkActions)('%s: says which jobs are found, and changes nothing', async (action) => {
    const tag = `dry-${action}`;
    for (const state of ['queued', 'succeeded', 'failed'] as const)
      await insertJob(api.db, { state, tags: [tag] });
    await insertJob(api.db, { state: 'failed', tags: [tag], tenantId: 'other' });
    const before = await snapshot();
    const response = await send({ action, q: `tag:${tag}`, dryRun: true });
    expect(await response.json()).toMatchObject({ action, matched: 3, isExact: true });
    expect(await snapshot()).toEqual(before);
  });
});

describe('202', () => {
  test.each(bulkActions)('%s: is accepted', async (action) => {
    const response = await send({ action, q: 'tag:none' });
    expect(response.status).toBe(202);
    expect(await response.json()).toMatchObject({ task: 'jobs.bulk', input: { action } });
  });

  test('answers with the job that does it, as of the clock of the database', async () => {
    const response = await send({ action: 'cancel', q: 'state:queued', reason: 'why' });
    expect(response.status).toBe(202);
    const job = (await response.json()) as { id: string; input: { asOf: string } };
    expect(response.headers.get('location')).toBe(`/v1/jobs/${job.id}`);
    expect(job).toMatchObject({
      task: 'jobs.bulk',
      queue: 'bulk',
      input: { action: 'cancel', q: 'state:queued', reason: 'why' },
    });
    const { rows } = await api.db.query(
      'SELECT created_at > $2::timestamptz AS is_later FROM jobs WHERE id = $1',
      [job.id, job.input.asOf],
    );
    expect(rows).toEqual([{ is_later: true }]);
  });

  test('the same key gives the same job, also at another time; other content is refused', async () => {
    const headers = { 'idempotency-key': randomUUID() };
    const body = { action: 'cancel', q: 'tag:a' };
    const [first, again] = [await send(body, headers), await send(body, headers)];
    expect(await again.json()).toEqual(await first.json());
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect((await send({ ...body, q: 'tag:b' }, headers)).status).toBe(422);
  });
});

describe('400', () => {
  test.each(['stat:failed', 'state:faild', '"'])('for the search %s', async (q) => {
    const response = await send({ action: 'cancel', q });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'bad-request', errors: [{ pointer: '/q' }] });
  });
});

describe('422', () => {
  test.each<[object, string]>([
    [{ action: 'explode', q: 'tag:a' }, '/action'],
    [{ action: 'cancel' }, '/q'],
    [{ action: 'cancel', q: '' }, '/q'],
    [{ action: 'cancel', q: '   ' }, '/q'],
    [{ action: 'cancel', q: 'tag:a', reason: 'a\0' }, '/reason'],
    [{ action: 'retry', q: 'tag:a', reason: 'why' }, '/reason'],
    [{ action: 'cancel', q: 'tag:a', dry: true }, '/dry'],
  ])('%j points at %s', async (body, pointer) => {
    const response = await send(body);
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ errors: [{ pointer }] });
  });
});

test('no client can send such a job by itself, and none is told of the task', async () => {
  const job = { task: 'jobs.bulk', input: { action: 'cancel', q: 'task:*', asOf: '2999-01-01T00:00:00Z' } };
  for (const who of [client, api.admin]) {
    for (const [path, body] of [
      ['/v1/jobs', job],
      ['/v1/jobs/batch', { jobs: [job] }],
      ['/v1/jobs/batch', { jobs: [{ task: 'test.noop' }], onComplete: job }],
    ] as const) {
      const response = await who.post(path, body);
      expect(response.status).toBe(422);
      expect(await response.json()).toMatchObject({ code: 'unknown-task' });
    }
  }
  expect(await (await client.get('/v1/tasks')).text()).not.toContain('jobs.bulk');
  expect((await client.get('/v1/tasks/jobs.bulk')).status).toBe(404);
  expect(await (await client.get('/openapi.json')).text()).not.toContain('jobs.bulk');
});

test('one that failed is tried again by hand, by who may send such, and by nobody else', async () => {
  const { id } = (await (await send({ action: 'cancel', q: 'tag:none' })).json()) as { id: string };
  await api.db.query(
    `UPDATE jobs SET state = 'failed', finished_at = now(), dispatched_at = NULL WHERE id = $1`,
    [id],
  );
  const submitter = await api.client({ scopes: ['submit', 'read'] });
  const refused = await submitter.post(`/v1/jobs/${id}/retry`);
  expect(refused.status).toBe(403);
  expect(await refused.json()).toMatchObject({
    code: 'forbidden',
    detail: expect.stringContaining('"operate"') as unknown,
  });
  const retried = await client.post(`/v1/jobs/${id}/retry`);
  expect(retried.status).toBe(202);
  expect(await retried.json()).toMatchObject({ id, state: 'queued' });
  expect((await client.post(`/v1/jobs/${id}/replay`)).status).toBe(422);
});
