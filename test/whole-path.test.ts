import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  createClient,
  startApi,
  startWorker,
  type ApiProcess,
  type ServiceProcess,
} from '#test/support/service.ts';
import { createWorld, type World } from '#test/support/world.ts';

let world: World;
let api: ApiProcess;
let worker: ServiceProcess;
let client: ReturnType<typeof createClient>;

beforeAll(async () => {
  world = await createWorld();
  api = await startApi(world);
  worker = await startWorker(world);
  client = createClient(api.url);
});
afterAll(async () => {
  await Promise.all([api.kill('SIGTERM'), worker.kill('SIGTERM')]);
  await world.dispose();
});

test('an inline job runs and its result is readable', async () => {
  const job = await client.finished(await client.submit('test.noop', { n: 3 }));
  expect(job).toMatchObject({
    state: 'succeeded',
    result: { n: 3 },
    attempts: [{ number: 1, outcome: 'succeeded' }],
  });
});

test('a job runs in a child process that has nothing of the environment of the worker', async () => {
  const job = await client.finished(await client.submit('test.echo', { value: { a: [1, 'ä'] } }));
  expect(job.state).toBe('succeeded');
  expect(job.result.value).toEqual({ a: [1, 'ä'] });
  expect(job.result.pid).not.toBe(worker.pid);
  expect(job.result.env.filter((name: string) => /URL|KEY|REDIS|SMTP|DATABASE/.test(name))).toEqual([]);
});

test('at the soft time limit a handler may end well, and one that does not care goes on', async () => {
  const softTimeoutMs = 300;
  const [ends, goesOn] = await Promise.all([
    client.submit('test.sleep', { ms: 600_000, endsSoftly: true }, { softTimeoutMs }),
    client.submit('test.sleep', { ms: 2 * softTimeoutMs }, { softTimeoutMs }),
  ]);
  for (const id of [ends, goesOn])
    expect(await client.finished(id)).toMatchObject({ state: 'succeeded', result: { attempt: 1 } });
});

test('files sent with the job, parts in any order, come out as files', async () => {
  const form = new FormData();
  form.append('file', new Blob(['hello'], { type: 'text/plain' }), 'a.txt');
  form.append('input', '{}');
  form.append('file', new Blob(['world'], { type: 'text/plain' }), 'b.txt');
  form.append('task', 'test.files');
  const accepted = await client.request('POST', '/v1/jobs', { body: form });
  expect(accepted.status).toBe(202);
  const job = await client.finished(((await accepted.json()) as { id: string }).id);
  expect(job).toMatchObject({
    state: 'succeeded',
    files: [
      { name: 'a.txt', size: 5 },
      { name: 'b.txt', size: 5 },
    ],
  });
  expect(job.progress.percent).toBe(100);
});
