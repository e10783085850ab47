/**
 * From accept to result on the servers that we say we run on. Each image takes the place of one server, the other one is that of the
 * whole test run. Images that are not on this machine are skipped, unless WINDLASS_COMPAT_PULL=1 lets them be pulled.
 */
import { GenericContainer, type StartedTestContainer } from 'testcontainers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findEngineProblem, hasImage } from '#test/compose/docker.ts';
import {
  createClient,
  startApi,
  startWorker,
  type ApiProcess,
  type ServiceProcess,
  type ServiceWorld,
} from '#test/support/service.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { Redis } from 'ioredis';
import { Client } from 'pg';

const images = {
  redis: [
    'redis:8-bookworm',
    'redis:7-bookworm',
    'redis:6.2-bookworm',
    'valkey/valkey:9-bookworm',
    'valkey/valkey:8-bookworm',
  ],
  postgres: ['postgres:18-bookworm', 'postgres:17-bookworm', 'postgres:16-bookworm'],
} as const;

const startMs = 600_000;
const mayPull = process.env['WINDLASS_COMPAT_PULL'] === '1';
// Its reaper is an image too. Without it the containers are removed by the tests alone.
if (!mayPull) process.env['TESTCONTAINERS_RYUK_DISABLED'] = 'true';

const engineProblem = findEngineProblem();
if (engineProblem !== undefined) console.warn(`The compatibility suite is skipped: ${engineProblem}.`);

function findObstacle(image: string): string | undefined {
  if (engineProblem !== undefined) return engineProblem;
  return mayPull || hasImage(image) ? undefined : 'not on this machine, and WINDLASS_COMPAT_PULL is not 1';
}

for (const image of images.redis) {
  describeService(image, async (world) => {
    const container = await new GenericContainer(image).withExposedPorts(6379).start();
    const redisUrl = `redis://${container.getHost()}:${container.getMappedPort(6379)}`;
    const redis = new Redis(redisUrl);
    await waitFor(() => redis.ping(), { what: `${image} to answer` });
    return { container, world: { ...world, redisUrl }, redis };
  });
}

for (const image of images.postgres) {
  describeService(image, async (world) => {
    const container = await new GenericContainer(image)
      .withExposedPorts(5432)
      .withEnvironment({ POSTGRES_USER: 'windlass', POSTGRES_PASSWORD: 'secret' })
      .start();
    const databaseUrl = `postgres://windlass:secret@${container.getHost()}:${container.getMappedPort(5432)}/windlass`;
    await waitFor(() => askDatabase(databaseUrl), { what: `${image} to answer` });
    return { container, world: { ...world, databaseUrl }, redis: new Redis(world.redisUrl) };
  });
}

interface Started {
  readonly container: StartedTestContainer;
  readonly world: ServiceWorld;
  readonly redis: Redis;
}

function describeService(image: string, start: (world: World) => Promise<Started>): void {
  const obstacle = findObstacle(image);
  describe.skipIf(obstacle !== undefined)(`${image} (${obstacle ?? 'as container'})`, () => {
    let world: World;
    let started: Started;
    let api: ApiProcess;
    let worker: ServiceProcess;
    let client: ReturnType<typeof createClient>;

    beforeAll(async () => {
      world = await createWorld();
      started = await start(world);
      // Both at once: they have to agree on who migrates.
      [api, worker] = await Promise.all([startApi(started.world), startWorker(started.world)]);
      client = createClient(api.url);
    }, startMs);
    afterAll(async () => {
      await Promise.all([api?.kill('SIGTERM'), worker?.kill('SIGTERM')]);
      started?.redis.disconnect();
      await started?.container.stop();
      await world.dispose();
    }, startMs);

    test('a job with a file goes in, and its result comes out', async () => {
      const form = new FormData();
      form.append('task', 'test.files');
      form.append('file', new Blob(['straße']), 'straße.txt');
      const response = await client.request('POST', '/v1/jobs', { body: form });
      expect(response.status).toBe(202);
      const { id } = (await response.json()) as { id: string };
      const job = await client.finished(id);
      expect(job).toMatchObject({ state: 'succeeded', files: [{ name: 'straße.txt', size: 7 }] });
      const content = await client.get(`/v1/files/${job.files[0]?.id}/content`);
      expect(await content.text()).toBe('STRASSE');
    });

    test('jobs are delayed, retried, cancelled and counted once per idempotency key', async () => {
      const key = { 'idempotency-key': 'one and the same' };
      const body = { task: 'test.noop', input: { n: 1 } };
      const [delayed, retried, running, first, again] = await Promise.all([
        client.submit('test.noop', { n: 2 }, { delayMs: 500 }),
        client.submit('test.fail', { how: 'error', succeedsAt: 2 }),
        client.submit('test.sleep', { ms: 600_000 }),
        client.post('/v1/jobs', body, key),
        client.post('/v1/jobs', body, key),
      ]);
      await waitFor(async () => ((await client.job(running)).state === 'active' ? true : undefined), {
        what: 'the job to run',
      });
      expect((await client.post(`/v1/jobs/${running}/cancel`)).status).toBe(202);
      expect((await client.finished(running)).state).toBe('cancelled');
      expect(await client.finished(delayed)).toMatchObject({ state: 'succeeded', result: { n: 2 } });
      expect((await client.finished(retried)).attempts.map(({ outcome }) => outcome)).toEqual([
        'failed',
        'succeeded',
      ]);
      const ids = (await Promise.all([first.json(), again.json()])) as { id: string }[];
      expect(ids[0]?.id).toBe(ids[1]?.id);
    });

    test('jobs are searched by their state and their text', async () => {
      const id = await client.submit('test.noop', { n: 4 }, { tags: ['findable'] });
      await client.finished(id);
      const found = await client.get(`/v1/jobs?q=${encodeURIComponent('state:succeeded tag:findable')}`);
      expect(((await found.json()) as { data: { id: string }[] }).data.map((job) => job.id)).toEqual([id]);
    });

    test('what Redis forgets is done all the same', async () => {
      const ids = await Promise.all(
        Array.from({ length: 20 }, () => client.submit('test.sleep', { ms: 200 })),
      );
      const keys = await started.redis.keys(`${started.world.redisPrefix}*`);
      expect(keys).not.toEqual([]);
      await started.redis.del(keys);
      const jobs = await Promise.all(ids.map((id) => client.finished(id)));
      expect(jobs.filter(({ state }) => state !== 'succeeded')).toEqual([]);
    });

    test('neither the api nor the worker has reported an error', () => {
      const complaints = [...api.lines, ...worker.lines].filter((line) => /"level":[56]0/.test(line));
      expect(complaints).toEqual([]);
    });
  });
}

async function askDatabase(url: string): Promise<true> {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query('SELECT 1');
  await client.end();
  return true;
}
