/** Uploads while something breaks: what is answered with success is durable, and of everything else nothing stays. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import { expect, test } from 'vitest';
import type { CrashPoint } from '#shared/crash-point.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { startOwnRedis } from '#test/support/breakable-servers.ts';
import { createClient, testKey } from '#test/support/service.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { expectOneRunEach, outcomesOf } from './expect-jobs.ts';

const bytes = Buffer.alloc(300_000, 'some text ');

const crashes: readonly { name: string; point: CrashPoint; stored: number; jobs: number }[] = [
  { name: 'F1: an api killed while it receives a file', point: 'upload.middle', stored: 0, jobs: 0 },
  { name: 'F2: an api killed before the file was synced', point: 'storage.before-sync', stored: 0, jobs: 0 },
  {
    name: 'F2: an api killed before the file had its name',
    point: 'storage.before-rename',
    stored: 0,
    jobs: 0,
  },
  {
    name: 'F3: an api killed between storing the file and the commit',
    point: 'accept.before-commit',
    stored: 1,
    jobs: 0,
  },
  {
    name: 'F5: an api killed between the commit and its answer',
    point: 'accept.after-commit',
    stored: 1,
    jobs: 1,
  },
];

test.concurrent.each(crashes)(
  '$name leaves no half upload; the retry with the same key makes one job',
  ({ point, stored, jobs }) =>
    withSystem({}, async (system) => {
      const dying = await system.startApi({ CRASH_AT: point });
      await expect(submitForm(createClient(dying.url))).rejects.toThrow('fetch failed');
      await dying.exited;
      expect([
        (await storedIds(system)).length,
        await count(system, 'files'),
        await count(system, 'jobs'),
      ]).toEqual([stored, jobs, jobs]);
      const response = await submitForm(system.client);
      expect(response.status).toBe(202);
      system.accepted.push(((await response.json()) as { id: string }).id);
      await system.startWorker();
      const [job] = await system.finished();
      expect([job?.state, job?.files[0]?.size]).toEqual(['succeeded', bytes.length]);
      expect(await count(system, 'jobs')).toBe(1);
    }),
);

test.concurrent('F9: a file that arrives while Postgres goes away is answered with 503 and Retry-After, and the retry stores it', () =>
  withSystem({ own: ['postgres'] }, async (system, { postgres }) => {
    let send: (chunk: Buffer | undefined) => void = () => undefined;
    const body = new ReadableStream({
      start: (controller) => {
        send = (chunk) => (chunk === undefined ? controller.close() : controller.enqueue(chunk));
      },
    });
    const headers = { authorization: `Bearer ${testKey}` };
    const answer = fetch(`${system.api.url}/v1/files`, { method: 'POST', body, headers, duplex: 'half' });
    send(bytes);
    await waitFor(
      () => (readdirSync(join(system.world.dataDir, 'files/parts')).length === 1 ? true : undefined),
      {
        what: 'the upload to begin',
      },
    );
    await postgres.kill();
    send(undefined);
    const refused = await answer;
    expect([refused.status, Number(refused.headers.get('retry-after')) > 0]).toEqual([503, true]);
    await postgres.start();
    expect(await count(system, 'files')).toBe(0);
    const stored = await waitFor(
      async () => {
        const response = await system.client.request('POST', '/v1/files', { body: bytes });
        return response.status === 201 ? response : undefined;
      },
      { what: 'the api to store again' },
    );
    expect(await stored.json()).toMatchObject({ size: bytes.length });
    expect(await count(system, 'files')).toBe(1);
  }));

test.concurrent('F12: when the disk is full uploads are refused with 507, jobs with too large files fail, and all else goes on', (ctx) => {
  if (!canMount()) ctx.skip('mounting a small file system takes root');
  return withSystem({ env: { WINDLASS_DISK_USED_MAX: '1' } }, async (system) => {
    const dir = join(system.world.dataDir, 'files');
    mkdirSync(dir);
    mountSmallDisk(dir);
    system.onEnd(() => execFileSync('umount', [dir]));
    const tooLarge = Buffer.alloc(2_000_000);
    for (const refused of [
      await system.client.request('POST', '/v1/files', { body: tooLarge }),
      await submitForm(system.client, tooLarge),
    ]) {
      expect(refused.status).toBe(507);
      expect(await refused.json()).toMatchObject({ code: 'storage-full' });
    }
    expect([await storedIds(system), readdirSync(join(dir, 'parts'))]).toEqual([[], []]);
    expect([await count(system, 'files'), await count(system, 'jobs')]).toEqual([0, 0]);
    // Not before: its janitor stores a file of its own at once, to read the clock of the storage.
    await system.startWorker();
    const greedy = await system.submit('test.write', { text: 'x'.repeat(1_000), times: 2_000 });
    const modest = await system.submit('test.write');
    const [failed, succeeded] = await system.finished([greedy, modest]);
    expect([failed?.error?.code, outcomesOf(failed)]).toEqual([
      'storage-full',
      ['failed', 'failed', 'failed'],
    ]);
    expect(succeeded?.state).toBe('succeeded');
    expect((await system.client.request('POST', '/v1/files', { body: bytes })).status).toBe(201);
  });
});

test.concurrent('F62: when the disk of Postgres is full jobs are refused with 503, and when there is room everything goes on', (ctx) => {
  if (!canMount()) ctx.skip('mounting a small file system takes root');
  return withSystem({ own: ['postgres'] }, async (system, { postgres }) => {
    const dir = join(system.marks, 'disk');
    mkdirSync(dir);
    mountSmallDisk(dir, { size: '3m', uid: statSync(`/proc/${postgres.pid}`).uid });
    // Not before Postgres has let go of it.
    system.onEnd(async () => {
      await postgres.stop();
      execFileSync('umount', [dir]);
      await postgres.start();
    });
    const admin = new Client({ connectionString: ownUrl(postgres.adminUrl, system.world.databaseUrl) });
    await admin.connect();
    await admin.query(`CREATE TABLESPACE small LOCATION '${dir}'`);
    await admin.query('ALTER TABLE jobs SET TABLESPACE small');
    await admin.end();
    await system.startWorker();

    const send = (n: number) =>
      // Nothing that could be compressed.
      system.client.post(
        '/v1/jobs',
        { task: 'test.echo', input: { value: randomBytes(100_000).toString('base64') } },
        { 'idempotency-key': `disk-${n}` },
      );
    let answer = await send(0);
    let sent = 1;
    for (; answer.status === 202; sent += 1) {
      system.accepted.push(((await answer.json()) as { id: string }).id);
      answer = await send(sent);
    }
    expect([answer.status, Number(answer.headers.get('retry-after')) > 0]).toEqual([503, true]);
    expect(await answer.json()).toMatchObject({ code: 'unavailable' });
    expect(await count(system, 'jobs')).toBe(system.accepted.length);

    execFileSync('mount', ['-o', 'remount,size=200m', dir]);
    answer = await waitFor(
      async () => {
        const again = await send(sent);
        return again.status === 202 ? again : undefined;
      },
      { what: 'jobs to be accepted again' },
    );
    system.accepted.push(((await answer.json()) as { id: string }).id);
    await expectOneRunEach(system);
  });
});

test.concurrent('F62: when the disk of Redis is full jobs are accepted, and when there is room they run', (ctx) => {
  if (!canMount()) ctx.skip('mounting a small file system takes root');
  return withSystem({}, async (system) => {
    const dir = join(system.marks, 'disk');
    mkdirSync(dir);
    mountSmallDisk(dir, { size: '4m' });
    system.onEnd(() => execFileSync('umount', [dir]));
    const redis = await startOwnRedis(dir);
    system.onEnd(() => redis.dispose());
    const env = { REDIS_URL: redis.url };
    const client = createClient((await system.startApi(env)).url);
    await system.startWorker(env);
    system.accepted.push(await client.submit('test.noop', { n: 0 }));
    await system.finished();

    const filler = join(dir, 'filler');
    expect(() => writeFileSync(filler, Buffer.alloc(8_000_000))).toThrow('ENOSPC');
    const connection = new Redis(redis.url);
    system.onEnd(() => connection.disconnect());
    await waitFor(
      async () => {
        const said = await connection.set('any', 'x'.repeat(10_000)).catch((err: unknown) => String(err));
        return said.includes('MISCONF') ? true : undefined;
      },
      { what: 'Redis to refuse writes' },
    );
    for (let n = 1; n <= 10; n += 1) system.accepted.push(await client.submit('test.noop', { n }));
    rmSync(filler);
    await expectOneRunEach(system);
  });
});

function submitForm(client: System['client'], file: Buffer = bytes): Promise<Response> {
  const form = new FormData();
  form.set('task', 'test.files');
  form.set('file', new Blob([new Uint8Array(file)], { type: 'text/plain' }), 'text.txt');
  return client.request('POST', '/v1/jobs', { body: form, headers: { 'idempotency-key': 'form' } });
}

function canMount(): boolean {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-mount-'));
  try {
    mountSmallDisk(dir);
    execFileSync('umount', [dir]);
    return true;
  } catch {
    return false;
  } finally {
    rmdirSync(dir);
  }
}

function mountSmallDisk(dir: string, { size = '1m', uid = 0 } = {}): void {
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},uid=${uid}`, 'tmpfs', dir], { stdio: 'ignore' });
}

/** The database of `url`, as the superuser of `adminUrl`. */
function ownUrl(adminUrl: string, url: string): string {
  const own = new URL(adminUrl);
  own.pathname = new URL(url).pathname;
  return own.href;
}

async function count({ db }: System, table: 'files' | 'jobs'): Promise<number> {
  const { rows } = await db.query<{ count: number }>(`SELECT count(*) AS count FROM ${table}`);
  return rows[0]?.count ?? -1;
}

async function storedIds({ world }: System): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of createFsStorage({ dir: join(world.dataDir, 'files') }).list()) ids.push(id);
  return ids;
}
