import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startWindlass, type Windlass } from './windlass.ts';

const tasksDir = fileURLToPath(new URL('../../test/fixtures/tasks', import.meta.url));
const dayMs = 86_400_000;
let windlass: Windlass;

beforeAll(async () => {
  windlass = await startWindlass({ tasksDir });
});
afterAll(() => windlass.stop());

test('a job for tomorrow waits through drain(), and runs when the time was moved', async () => {
  const id = await windlass.submit('test.noop', { n: 7 }, { delayMs: dayMs });
  await windlass.drain();
  expect(await windlass.job(id)).toMatchObject({ state: 'scheduled' });
  await windlass.advance(dayMs);
  await windlass.drain();
  expect(await windlass.job(id)).toMatchObject({ state: 'succeeded', result: { n: 7 } });
});

test('a retry that is hours away comes when the time was moved', async () => {
  const hours = { type: 'fixed', delayMs: dayMs, maxMs: dayMs };
  const id = await windlass.submit('test.fail', { how: 'error', succeedsAt: 2 }, { backoff: hours });
  await windlass.drain();
  expect(await windlass.job(id)).toMatchObject({ state: 'retrying' });
  await windlass.advance(dayMs);
  await windlass.drain();
  expect(await windlass.job(id)).toMatchObject({ state: 'succeeded', result: { attempt: 2 } });
});

test('a workflow that does something for each item is over when everything was drained', async () => {
  const headers = { authorization: `Bearer ${windlass.key}`, 'content-type': 'application/json' };
  const steps = { all: { task: 'test.noop', forEach: [1, 2, 3], input: { n: { $item: true } } } };
  const accepted = await fetch(`${windlass.url}/v1/workflows`, {
    method: 'POST',
    headers,
    body: JSON.stringify({ steps }),
  });
  const { id } = (await accepted.json()) as { id: string };
  await windlass.drain();
  const workflow = await fetch(`${windlass.url}/v1/workflows/${id}`, { headers });
  expect(await workflow.json()).toMatchObject({
    state: 'succeeded',
    steps: { all: { result: [{ n: 1 }, { n: 2 }, { n: 3 }] } },
  });
});

test('what waits for a batch is over when everything was drained', async () => {
  const headers = { authorization: `Bearer ${windlass.key}`, 'content-type': 'application/json' };
  const jobs = [1, 2, 3].map((n) => ({ task: 'test.noop', input: { n } }));
  const accepted = await fetch(`${windlass.url}/v1/jobs/batch`, {
    method: 'POST',
    headers,
    body: JSON.stringify({ jobs, onComplete: { task: 'test.noop', input: { n: 4 } } }),
  });
  const { onComplete } = (await accepted.json()) as { onComplete: { id: string } };
  await windlass.drain();
  expect(await windlass.job(onComplete.id)).toMatchObject({ state: 'succeeded' });
});

test('a schedule makes its job when its time was reached by moving', async () => {
  const headers = { authorization: `Bearer ${windlass.key}`, 'content-type': 'application/json' };
  const schedule = { task: 'test.noop', input: { n: 1 }, everyMs: dayMs };
  const put = await fetch(`${windlass.url}/v1/schedules/daily`, {
    method: 'PUT',
    headers,
    body: JSON.stringify(schedule),
  });
  expect(put.status).toBe(201);
  await windlass.advance(dayMs);
  let jobs: { state: string }[] = [];
  await expect
    .poll(async () => {
      const page = await fetch(`${windlass.url}/v1/jobs?q=schedule:daily`, { headers });
      jobs = ((await page.json()) as { data: { state: string }[] }).data;
      return jobs.length;
    })
    .toBe(1);
  await windlass.drain();
});

test('e-mails are caught, and a job that is left is named', async () => {
  await windlass.submit('email.send', { to: ['ada@example.com'], subject: 'Hello', text: 'From here.' });
  await windlass.drain();
  expect(windlass.mails().map((mail) => mail.headers['subject'])).toEqual(['Hello']);
  const id = await windlass.submit('test.sleep', { ms: 600_000 });
  await expect(windlass.drain({ deadlineMs: 100 })).rejects.toThrow(id);
});

test('nothing is left when it was stopped', async () => {
  const before = listDirs();
  const other = await startWindlass();
  expect(listDirs()).toHaveLength(before.length + 1);
  await other.stop();
  await expect(fetch(`${other.url}/livez`)).rejects.toThrow('fetch failed');
  expect(listDirs()).toEqual(before);
});

function listDirs(): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith('windlass-embedded-'));
}
