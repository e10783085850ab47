/**
 * What `docker compose up` gives, tried with a real engine: it starts without any setting, tasks cannot get out of their
 * host, and jobs survive killed workers, a flushed Redis and a stop. The tests build on each other, in this order.
 *
 * In CI, pull the images first: what is not there is not fetched by a test.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, onTestFailed, test } from 'vitest';
import { createClient } from '#test/support/service.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { findCompose, findEngineProblem, hasBuildKit, hasImage, namedImages, root, run } from './docker.ts';
import { createProject, type Project } from './project.ts';

const deadlineMs = 900_000;
const graceMs = 15_000;

const compose = findCompose() ?? [];
const obstacle = findObstacle();
if (obstacle !== undefined) console.warn(`The tests of docker-compose.yml are skipped: ${obstacle}.`);

function findObstacle(): string | undefined {
  const engine = findEngineProblem();
  if (engine !== undefined) return engine;
  if (!hasBuildKit()) return 'this docker program has no BuildKit: install buildx';
  if (compose.length === 0) return 'neither `docker compose` nor `docker-compose` works';
  const missing = namedImages().filter((image) => !hasImage(image));
  return missing.length === 0 ? undefined : `images are missing: docker pull ${missing.join(' ')}`;
}

describe.skipIf(obstacle !== undefined)(
  `docker-compose.yml (${obstacle ?? compose.join(' ')})`,
  { timeout: deadlineMs },
  () => {
    let project: Project;
    let client: ReturnType<typeof createClient>;

    beforeAll(async () => {
      project = await createProject(compose, {
        WINDLASS_TASKS: './test/fixtures/tasks',
        WINDLASS_SLOTS: '2',
        WINDLASS_HOST_MEMORY_MAX: String(512 * 1024 * 1024),
        WINDLASS_GRACE_MS: String(graceMs),
      });
      await project.compose('build', 'api', 'worker');
    }, deadlineMs);
    afterAll(() => project.remove(), deadlineMs);

    /** The logs say why, and are gone with the containers. */
    function showLogsOnFailure(): void {
      onTestFailed(async () => console.error((await project.compose('logs', '--tail', '60')).slice(-20_000)));
    }

    async function probe(input: object): Promise<any> {
      const job = await client.finished(await client.submit('test.probe', input, { attempts: 1 }));
      expect(job).toMatchObject({ state: 'succeeded', error: null });
      return job.result;
    }

    /** Commands and keys that Redis refused to somebody since it started. */
    async function deniedInRedis(): Promise<string[]> {
      const script = 'REDISCLI_AUTH="$(cat /run/redis-secrets/admin-password)" redis-cli --json ACL LOG';
      const { output } = await project.exec(await only('redis'), script);
      return (JSON.parse(output) as { object: string }[]).map(({ object }) => object);
    }

    async function only(service: string): Promise<string> {
      const [id, ...others] = await project.containers(service);
      if (id === undefined || others.length > 0)
        throw new Error(`There is not exactly one container of ${service}.`);
      return id;
    }

    test('the images hold a compile cache that every user of theirs can read', async () => {
      const warm = async (image: string, user: string, main: string) => {
        const command = [
          'docker',
          'run',
          '--rm',
          '--read-only',
          '--user',
          user,
          '--env',
          'NODE_DEBUG_NATIVE=COMPILE_CACHE',
        ];
        // It ends at once, for want of a configuration or of a worker; what it loaded until then is what counts.
        const { output } = await run([...command, `windlass-${image}:compose-test`, 'node', main]);
        const misses = [
          ...output.matchAll(/reading cache from \S+ for ESM (file:\/\/\/app\S+)\.\.\. no such file/g),
        ];
        return {
          accepted: output.match(/was accepted/g)?.length ?? 0,
          misses: misses.map(([, file]) => file),
        };
      };
      for (const [image, user, main] of [
        ['api', '10001:10001', 'api/main.ts'],
        ['worker', '0:10001', 'worker/main.ts'],
        ['worker', '20007:20007', 'worker/task-host/main.ts'],
      ] as const) {
        const { accepted, misses } = await warm(image, user, main);
        expect(misses, `${main} as ${user}`).toEqual([]);
        expect(accepted, `${main} as ${user}`).toBeGreaterThan(50);
      }
    });

    test('it starts without any setting, and the log of the api shows the first admin key', async () => {
      showLogsOnFailure();
      await project.compose('up', '--detach', '--no-build');
      await project.waitForHealth('api', 'worker', 'postgres', 'redis', 'mail');
      const [, key] = /"adminKey":"([^"]+)"/.exec(await project.compose('logs', '--no-color', 'api')) ?? [];
      expect(key).toMatch(/^wl_/);
      client = createClient(project.url, key);
      const ready = (await (await fetch(`${project.url}/readyz`)).json()) as { checks: { workers: string } };
      expect(ready.checks.workers).toBe('1 live, each task host has a user id of its own');
    });

    test('containers have the rights they need and no others', async () => {
      const inspect = async (service: string) => {
        const { Config, HostConfig } = await project.inspect(await only(service));
        const { CapAdd, CapDrop, ReadonlyRootfs, SecurityOpt, Privileged, PidsLimit, Memory } = HostConfig;
        return {
          user: Config.User,
          capabilities: { drop: CapDrop, add: (CapAdd ?? []).map((name) => name.replace('CAP_', '')) },
          isReadOnly: ReadonlyRootfs,
          isHardened:
            SecurityOpt.includes('no-new-privileges:true') && !Privileged && PidsLimit > 0 && Memory > 0,
          ports: Object.values(HostConfig.PortBindings)
            .flat()
            .map(({ HostIp }) => HostIp),
        };
      };
      const closed = { capabilities: { drop: ['ALL'], add: [] }, isHardened: true, ports: [] };
      expect(await inspect('api')).toEqual({
        ...closed,
        user: '10001:10001',
        isReadOnly: true,
        ports: ['127.0.0.1'],
      });
      expect(await inspect('worker')).toEqual({
        ...closed,
        user: '0:10001',
        isReadOnly: true,
        capabilities: { drop: ['ALL'], add: ['CHOWN', 'KILL', 'SETGID', 'SETUID'] },
      });
      expect(await inspect('redis')).toEqual({ ...closed, user: 'redis', isReadOnly: true });
      expect(await inspect('postgres')).toEqual({ ...closed, user: 'postgres', isReadOnly: false });
    });

    test('no password is in an environment, and the service is no superuser', async () => {
      for (const service of ['api', 'worker', 'postgres', 'redis']) {
        const { Config } = await project.inspect(await only(service));
        expect(
          Config.Env.filter(
            (entry) => /^[^=]*(PASSWORD|URL)=./.test(entry) && !entry.startsWith('SMTP_URL='),
          ),
        ).toEqual([]);
      }
      const question = `SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = 'windlass'`;
      const { output } = await project.exec(
        await only('postgres'),
        `PGPASSWORD="$(cat /run/postgres-secrets/superuser-password)" psql -h 127.0.0.1 -U postgres -Atc "${question}"`,
      );
      expect(output.trim()).toBe('f');
    });

    test('a task runs with a user and limits of its own, and reaches neither passwords nor storage nor servers', async () => {
      showLogsOnFailure();
      const found = await probe({
        read: [
          '/proc/{parent}/environ',
          '/proc/1/environ',
          '/run/windlass/database-url',
          '/run/windlass/redis-url',
        ],
        list: ['/data', '/data/files', '/data/scratch', '/tmp', '/dev/shm', '/proc/{parent}/fd'],
        write: ['/data/x', '/data/files/x', '/tmp/x', '/dev/shm/x'],
        connect: [{ host: 'redis', port: 6379, say: 'KEYS *\r\n' }],
      });
      expect(found.uid).toBeGreaterThanOrEqual(20_000);
      expect(found.gid).toBe(found.uid);
      expect([
        ...Object.values(found.read),
        ...Object.values(found.list),
        ...Object.values(found.write),
      ]).toEqual(Array.from({ length: 14 }, () => 'EACCES'));
      expect(found.killParent).toBe('EPERM');
      expect(found.connect['redis:6379']).toContain('NOAUTH');
      expect(found.env.filter((name: string) => /URL|KEY|PASSWORD|SECRET|FILE/.test(name))).toEqual([]);
      expect(found.status).toMatchObject({ CapEff: '0000000000000000', NoNewPrivs: '1', Seccomp: '2' });
      expect(found.limits).toMatchObject({
        'Max file size': String(10 * 1024 * 1024 * 1024),
        'Max open files': '1024',
        'Max core file size': '0',
      });
      // WINDLASS_HOST_MEMORY_MAX and what Node itself takes.
      expect(Number(found.limits['Max data size'])).toBeLessThan(2 * 1024 * 1024 * 1024);
      const { write } = await probe({ write: ['/app/x', '/tasks/x', '/var/tmp/x', '/run/lock/x'] });
      expect(Object.values(write)).toEqual(['EROFS', 'EROFS', 'EROFS', 'EROFS']);
    });

    test('a task that takes all the memory it can get ends alone', async () => {
      const [greedy, modest] = await Promise.all([
        client.submit('test.crash', { how: 'memory' }, { attempts: 1 }),
        client.submit('test.sleep', { ms: 3_000 }, { attempts: 1 }),
      ]);
      expect((await client.finished(greedy)).state).toBe('failed');
      expect((await client.finished(modest)).state).toBe('succeeded');
    });

    test('input files are links, outputs come back whatever their mode, and nothing of a run stays', async () => {
      showLogsOnFailure();
      const id = await upload('test.probe', { mess: true }, 'the bytes of a client');
      const job = await client.finished(id);
      expect(job.result.file).toEqual({ links: 2, uid: 10_001, mode: '664', write: 'EACCES' });
      const [file] = job.files;
      const content = await client.get(`/v1/files/${file?.id}/content`);
      expect(await content.text()).toBe('only the owner may read this');
      const worker = await only('worker');
      await waitFor(
        async () =>
          (await project.exec(worker, `[ ! -e ${job.result.scratchDir} ]`)).code === 0 ? true : undefined,
        { what: 'the directory of the run to be deleted' },
      );
    });

    test('e-mails arrive at the catcher', async () => {
      const id = await client.submit('email.send', {
        to: ['ada@example.com'],
        subject: 'From a container',
        text: 'It works.',
      });
      expect((await client.finished(id)).state).toBe('succeeded');
      const mails = (await (await fetch(`${project.mailUrl}/email`)).json()) as { subject: string }[];
      expect(mails.map(({ subject }) => subject)).toEqual(['From a container']);
    });

    test('three workers, one of them killed: all 200 photos are resized, each once', async () => {
      showLogsOnFailure();
      await project.compose('up', '--detach', '--no-build', '--no-recreate', '--scale', 'worker=3');
      await project.waitForHealth('worker');
      const photo = readFileSync(`${root}test/fixtures/photo.jpg`);
      const ids: string[] = [];
      const upload200 = inParallel(10, 200, async () => {
        ids.push(await upload('image.resize', { width: 320, format: 'webp' }, photo));
      });
      // One for every slot: whichever worker is killed, it has some.
      const sleepers = await Promise.all(
        Array.from({ length: 6 }, () => client.submit('test.sleep', { ms: 20_000 })),
      );
      await waitFor(
        async () => {
          const jobs = await Promise.all(sleepers.map((id) => client.job(id)));
          return jobs.every(({ state }) => state === 'active') ? true : undefined;
        },
        { what: 'every worker to have a job' },
      );
      const [, victim = ''] = await project.containers('worker');
      expect((await run(['docker', 'kill', victim])).code).toBe(0);
      await upload200;

      const jobs = await Promise.all([...ids, ...sleepers].map((id) => client.finished(id, 300_000)));
      expect(jobs.filter(({ state }) => state !== 'succeeded')).toEqual([]);
      expect(
        jobs.filter(({ attempts }) => attempts.some(({ outcome }) => outcome === 'crashed')).length,
      ).toBeGreaterThanOrEqual(2);
      expect(
        jobs.every(({ attempts }) => attempts.filter(({ outcome }) => outcome === 'succeeded').length === 1),
      ).toBe(true);
      const resized = await client.get(`/v1/files/${jobs[0]?.files[0]?.id}/content`);
      expect(Buffer.from(await resized.arrayBuffer()).toString('latin1', 8, 12)).toBe('WEBP');
    });

    test('the service can do what its queues need in Redis, and nothing else', async () => {
      const redis = await only('redis');
      const asService = (command: string) =>
        project.exec(
          redis,
          `REDISCLI_AUTH="$(cat /run/redis-secrets/password)" redis-cli --user windlass ${command}`,
        );
      const forbidden = [
        'FLUSHALL',
        'KEYS "*"',
        'CONFIG SET maxmemory-policy allkeys-lru',
        'GET other',
        'SHUTDOWN',
      ];
      const answers = await Promise.all(forbidden.map(asService));
      expect(answers.filter(({ output }) => !output.includes('NOPERM'))).toEqual([]);
      expect((await asService('SET wl:test 1')).output).toContain('OK');
      expect((await asService('DEL wl:test')).output).toContain('1');
      const tried = ['flushall', 'keys', 'config|set', 'other', 'shutdown'];
      // The check of the eviction policy is content with not being told.
      expect((await deniedInRedis()).filter((name) => ![...tried, 'config|get'].includes(name))).toEqual([]);
    });

    test('Redis flushed and started again: no job is lost', async () => {
      showLogsOnFailure();
      const ids = await Promise.all(
        Array.from({ length: 30 }, () => client.submit('test.sleep', { ms: 500 })),
      );
      const redis = await only('redis');
      const flushed = await project.exec(
        redis,
        'REDISCLI_AUTH="$(cat /run/redis-secrets/admin-password)" redis-cli FLUSHALL',
      );
      expect(flushed.output).toContain('OK');
      await project.compose('restart', 'redis');
      const jobs = await Promise.all(ids.map((id) => client.finished(id, 300_000)));
      expect(jobs.filter(({ state }) => state !== 'succeeded')).toEqual([]);
      // Nothing of the append-only file was left out for want of rights.
      expect(await deniedInRedis()).toEqual([]);
    });

    test('stop lets running jobs finish within the grace, every process ends with 0, and what waited goes on after start', async () => {
      showLogsOnFailure();
      const long = await client.submit('test.sleep', { ms: 4_000 });
      await waitFor(async () => ((await client.job(long)).state === 'active' ? true : undefined), {
        what: 'the job to run',
      });
      const waiting = await Promise.all(
        Array.from({ length: 30 }, () => client.submit('test.sleep', { ms: 1_000 })),
      );
      const startedAt = performance.now();
      await project.compose('stop');
      expect(performance.now() - startedAt).toBeLessThan(graceMs + 30_000);
      const ends = await Promise.all(
        (await Promise.all([project.containers('api'), project.containers('worker')]))
          .flat()
          .map(async (id) => (await project.inspect(id)).State),
      );
      // The worker that was killed above stays as it is.
      expect(ends.map(({ Status, ExitCode }) => `${Status} ${ExitCode}`).toSorted()).toEqual([
        'exited 0',
        'exited 0',
        'exited 0',
        'exited 137',
      ]);

      await project.compose('up', '--detach', '--no-build', '--no-recreate', '--scale', 'worker=3');
      await project.waitForHealth('api', 'worker');
      const job = await client.finished(long);
      expect(job).toMatchObject({ state: 'succeeded', attempts: [{ number: 1, outcome: 'succeeded' }] });
      const jobs = await Promise.all(waiting.map((id) => client.finished(id, 300_000)));
      expect(jobs.filter(({ state }) => state !== 'succeeded')).toEqual([]);
    });

    async function upload(
      task: string,
      input: unknown,
      bytes: string | Buffer<ArrayBuffer>,
    ): Promise<string> {
      const form = new FormData();
      form.append('task', task);
      form.append('input', JSON.stringify(input));
      form.append('file', new Blob([bytes]), 'file');
      const response = await client.request('POST', '/v1/jobs', { body: form });
      const body = (await response.json()) as { id: string };
      if (response.status !== 202) throw new Error(`${response.status} ${JSON.stringify(body)}`);
      return body.id;
    }
  },
);

async function inParallel(width: number, count: number, work: () => Promise<void>): Promise<void> {
  let left = count;
  const go = async () => {
    for (; left > 0;) {
      left -= 1;
      await work();
    }
  };
  await Promise.all(Array.from({ length: width }, go));
}
