/** The worker with the rights that its image gives it, and no others; it takes root to take rights away. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  createClient,
  startApi,
  startWorker,
  type ApiProcess,
  type ServiceProcess,
} from '#test/support/service.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { zip } from '#test/fixtures/make/zip.ts';
import { createWorld, type World } from '#test/support/world.ts';

const serviceId = 10_001;
const uidBase = 20_000;
const apiRights = asUser({ uid: serviceId, capabilities: '-all' });
const workerRights = asUser({ uid: 0, capabilities: '-all,+chown,+kill,+setgid,+setuid' });
const hostRights = asUser({ uid: uidBase, capabilities: '-all' });

function asUser({ uid, capabilities }: { uid: number; capabilities: string }): string[] {
  return [
    'setpriv',
    `--reuid=${uid}`,
    `--regid=${uid === uidBase ? uidBase : serviceId}`,
    '--clear-groups',
    '--no-new-privs',
    '--inh-caps=-all',
    `--bounding-set=${capabilities}`,
  ];
}

/** Task hosts have users that own nothing here: they must be able to read the code and run Node. */
function findObstacle(): string | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'needs root on Linux';
  const main = fileURLToPath(new URL('./main.ts', import.meta.url));
  const [program, ...args] = [...hostRights, process.execPath, '--check', main];
  const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  return status === 0 ? undefined : `another user cannot run ${main}: ${stderr}`;
}

const obstacle = findObstacle();

describe.skipIf(obstacle !== undefined)(
  `a worker with four capabilities (${obstacle ?? 'as in its image'})`,
  () => {
    let world: World;
    let api: ApiProcess;
    let worker: ServiceProcess;
    let client: ReturnType<typeof createClient>;

    beforeAll(async () => {
      world = await createWorld();
      // As Kubernetes mounts a volume with fsGroup: closed to others, so the worker has to open a way for the hosts.
      chownSync(world.dataDir, 0, serviceId);
      chmodSync(world.dataDir, 0o2770);
      api = await startApi(world, {}, apiRights);
      worker = await startWorker(world, { WINDLASS_SLOTS: '1' }, workerRights);
      client = createClient(api.url);
    });
    afterAll(async () => {
      await Promise.all([api.kill('SIGTERM'), worker.kill('SIGTERM')]);
      await world.dispose();
    });

    async function probe(input: object): Promise<any> {
      const job = await client.finished(
        await client.submit('test.probe', input, { attempts: 1, timeoutMs: 20_000 }),
      );
      expect(job).toMatchObject({ state: 'succeeded', error: null });
      return job.result;
    }

    test('runs tasks as users of their own, without any right', async () => {
      const { uid, gid, groups, status } = await probe({});
      expect({ uid: uid - uidBase < 2, isGroupOfItsOwn: gid === uid, groups, status }).toEqual({
        uid: true,
        isGroupOfItsOwn: true,
        groups: [gid],
        status: expect.objectContaining({
          CapEff: '0000000000000000',
          CapPrm: '0000000000000000',
          CapAmb: '0000000000000000',
          NoNewPrivs: '1',
        }),
      });
    });

    test('takes output files that a task moved there from its scratch directory', async () => {
      const form = new FormData();
      form.append('task', 'archive.extract');
      form.append(
        'file',
        new Blob([new Uint8Array(zip([{ name: 'a.txt', bytes: Buffer.from('hi') }]))]),
        'a.zip',
      );
      const accepted = await client.request('POST', '/v1/jobs', { body: form });
      const job = await client.finished(((await accepted.json()) as { id: string }).id);
      expect(job).toMatchObject({ state: 'succeeded', files: [{ name: 'a.txt', size: 2 }] });
    });

    test('says what is in the way where it cannot let its tasks through to their directories', async () => {
      const closed = await createWorld();
      chownSync(closed.dataDir, serviceId, serviceId);
      chmodSync(closed.dataDir, 0o2770);
      await expect(startWorker(closed, {}, workerRights)).rejects.toThrow(`chmod o+x ${closed.dataDir}`);
      await closed.dispose();
    });

    test('its tasks see nothing of the worker, of the storage and of each other', async () => {
      const { dataDir } = world;
      const { list, read, write, killParent, home } = await probe({
        read: ['/proc/{parent}/environ', '/proc/{parent}/mem', '/proc/{parent}/fd/0'],
        list: [dataDir, join(dataDir, 'files'), join(dataDir, 'scratch'), '/proc/{parent}/fd'],
        write: [join(dataDir, 'x'), join(dataDir, 'files', 'x'), join(dataDir, 'scratch', 'x')],
      });
      expect([...Object.values(list), ...Object.values(read), ...Object.values(write)]).toEqual(
        Array.from({ length: 10 }, () => 'EACCES'),
      );
      expect(killParent).toBe('EPERM');
      const hosts = join(home, '../..');
      const workers = await probe({
        list: [hosts, join(hosts, 'inline'), join(hosts, 'runs')],
        write: [join(home, '../x')],
      });
      expect([...Object.values(workers.list), ...Object.values(workers.write)]).toEqual([
        'EACCES',
        'EACCES',
        'EACCES',
        'EACCES',
      ]);
    });

    test('gives tasks their input files without a copy, to read and not to write', async () => {
      const form = new FormData();
      form.append('task', 'test.probe');
      form.append('file', new Blob(['the bytes of a client']), 'input.txt');
      const response = await client.request('POST', '/v1/jobs', { body: form });
      expect(response.status).toBe(202);
      const { id } = (await response.json()) as { id: string };
      expect((await client.finished(id)).result.file).toEqual({
        links: 2,
        uid: serviceId,
        mode: '664',
        write: 'EACCES',
      });
    });

    test('takes files that a tool made private, and deletes what nobody can read', async () => {
      const id = await client.submit('test.probe', { mess: true });
      const job = await client.finished(id);
      expect(job).toMatchObject({ state: 'succeeded', files: [{ name: 'private' }] });
      const run = join(job.result.scratchDir, '..');
      await waitFor(() => (existsSync(run) ? undefined : true), {
        what: 'the directory of the run to be deleted',
      });
    });

    test.each([0, 0o555, 0o700])(
      'deletes the directory of a run that was closed with the mode %i',
      async (closeRun) => {
        const form = new FormData();
        form.append('task', 'test.probe');
        form.append('input', JSON.stringify({ closeRun }));
        form.append('file', new Blob(['the bytes of a client']), 'input.txt');
        const response = await client.request('POST', '/v1/jobs', { body: form });
        const job = await client.finished(((await response.json()) as { id: string }).id);
        expect(job).toMatchObject({ state: 'succeeded' });
        const run = join(job.result.scratchDir, '..');
        await waitFor(() => (existsSync(run) ? undefined : true), {
          what: 'the directory of the run to be deleted',
        });
      },
    );

    /** With the rights of the worker. */
    function callFunction(name: 'removeTree' | 'emptyTree', task: object): unknown {
      const module = JSON.stringify(new URL('./run-files.ts', import.meta.url));
      const script = `
        import { ${name} } from ${module};
        process.stdout.write(String(${name}(${JSON.stringify(task)})));`;
      const [program, ...args] = [...workerRights, process.execPath, '--input-type=module', '-e', script];
      const { stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
      expect(stderr).toBe('');
      return stdout === 'true';
    }

    test('keeps no directory that a task host owned: what else it did to it would stay', () => {
      const [dir, to] = [join(world.dataDir, 'scratch/run'), join(world.dataDir, 'scratch/spare')];
      mkdirSync(dir);
      expect(callFunction('emptyTree', { dir, to })).toBe(true);
      chownSync(to, uidBase, serviceId);
      expect(callFunction('emptyTree', { dir: to, to: dir })).toBe(false);
      expect(existsSync(dir)).toBe(false);
      expect(callFunction('removeTree', { dir: to })).toBe(true);
    });

    test('what one task host closed is not opened to others while it is deleted', () => {
      const [dir, kept] = [join(world.dataDir, 'scratch/shut'), join(world.dataDir, 'kept')];
      mkdirSync(dir);
      writeFileSync(kept, '');
      linkSync(kept, join(dir, 'file'));
      chmodSync(kept, 0o640);
      chmodSync(dir, 0);
      for (const path of [kept, dir]) chownSync(path, uidBase, uidBase);
      expect(callFunction('removeTree', { dir, isAbandoned: true })).toBe(true);
      expect(statSync(kept).mode & 0o777).toBe(0o640);
    });

    test('deletes what two task hosts of a dead worker closed to each other, one inside of the other', () => {
      const dir = join(world.dataDir, 'scratch', 'closed');
      let path = dir;
      mkdirSync(path);
      for (const uid of [1, 2, 1, 2].map((host) => uidBase + host)) {
        path = join(path, 'inner');
        mkdirSync(path);
        writeFileSync(join(path, 'file'), '');
        for (const made of [join(path, 'file'), path]) chownSync(made, uid, uid);
        chmodSync(path, 0o700);
      }
      expect(callFunction('removeTree', { dir }), 'while others may run').toBe(false);
      expect(callFunction('removeTree', { dir, isAbandoned: true })).toBe(true);
      expect(existsSync(dir)).toBe(false);
    });

    test('keeps a task from putting a link in the place of its directory', async () => {
      const job = await client.finished(await client.submit('test.probe', { swapOut: true }));
      expect(job.error).toMatchObject({
        code: 'task-failed',
        message: expect.stringMatching(/^EACCES: permission denied, rename/),
      });
    });

    test('kills a task that blocks, with the processes it started in sessions of their own', async () => {
      const marks = join(world.dataDir, 'marks');
      spawnSync('install', ['-d', '-m', '777', marks]);
      const id = await client.submit('test.spin', { dir: marks, grandchild: true });
      const pids = await waitFor(
        () => {
          const found = readdirSync(marks).map((name) => readFileSync(join(marks, name), 'utf8'));
          return found.length === 2 && found.every((pid) => pid !== '') ? found : undefined;
        },
        { what: 'the task and its grandchild to run', seen: () => readdirSync(marks) },
      );
      await client.post(`/v1/jobs/${id}/cancel`);
      expect((await client.finished(id)).state).toBe('cancelled');
      await waitFor(() => (pids.some((pid) => existsSync(`/proc/${pid}`)) ? undefined : true), {
        what: 'the task and its grandchild to be gone',
        seen: () => pids,
      });
    });
  },
);
