import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { blockingDisk } from '#test/support/blocking-disk.ts';
import { io, orderHandler } from '#test/support/start-host.ts';
import { expect, onTestFinished, test } from 'vitest';
import { createLogger } from '#shared/log.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createHostPool } from './host-pool.ts';

test('who asks while all hosts are still being cleaned up gets the first one that comes back', async () => {
  const pool = startPool({ size: 1 });
  // Two for one slot: cleaning up after a run is nobody's reason to wait.
  const hosts = [await pool.acquire('acme'), await pool.acquire('acme')];
  const third = pool.acquire('acme');
  const fourth = pool.acquire('acme');
  for (const host of hosts) pool.release(host, Promise.resolve());
  expect([await third, await fourth]).toEqual(hosts);
});

test('a host that is spent makes room for a new one, and so does an idle one of another tenant', async () => {
  const pool = startPool({ size: 1 });
  const [spent, idle] = [await pool.acquire('acme'), await pool.acquire('acme')];
  const waiting = pool.acquire('acme');
  await spent.kill();
  pool.release(spent, Promise.resolve());
  const replacement = await waiting;
  expect(replacement.pid).not.toBe(spent.pid);
  pool.release(idle, Promise.resolve());
  const other = await pool.acquire('umbrella');
  expect(other.pid).not.toBe(idle.pid);
  expect(idle.isReusable()).toBe(false);
});

test('a host of the same user as the worker makes room before its last run is cleared', async () => {
  const pool = startPool({ size: 1 });
  const hosts = [await pool.acquire('acme'), await pool.acquire('acme')];
  for (const host of hosts) pool.release(host, new Promise(() => {}));
  const other = await pool.acquire('umbrella');
  expect(hosts.map((host) => host.pid)).not.toContain(other.pid);
});

test.runIf(process.platform === 'linux')(
  'a host that has begun its next run is nobody else’s until that is over, and then only once',
  async () => {
    const pool = startPool({ size: 2 });
    const host = await pool.acquire('acme');
    const until = join(mkdtempSync(join(tmpdir(), 'windlass-gate-')), 'open');
    const gated = `async () => { while (!process.getBuiltinModule('fs').existsSync('${until}')) await new Promise((resolve) => setTimeout(resolve, 5)) }`;
    await host.run(orderHandler(host, '() => 1'), io);
    host.leave();
    const beginBoth = async () => {
      const last = host.run(orderHandler(host, '() => 1'), io);
      const next = host.offer(orderHandler(host, gated), { onBegun() {}, onTakenBack() {} });
      await last;
      return next;
    };
    let next = await beginBoth();
    // A run that takes long has no next one, and on a slow machine this one may.
    while (next === undefined || next.withdraw()) {
      expect(host.isReusable()).toBe(true);
      host.leave();
      next = await beginBoth();
    }
    pool.release(host, Promise.resolve());
    const other = await pool.acquire('acme');
    expect(other.pid).not.toBe(host.pid);
    writeFileSync(until, '');
    expect(await next.follow(io)).toMatchObject({ type: 'returned' });
    pool.release(host, Promise.resolve());
    const [again, third] = await Promise.all([pool.acquire('acme'), pool.acquire('acme')]);
    expect(again.pid).toBe(host.pid);
    expect(third.pid).not.toBe(host.pid);
    rmSync(dirname(until), { recursive: true });
  },
);

test('beside those that were asked for, however many at once, there is one spare', async () => {
  for (let round = 0; round < 5; round += 1) {
    const { pool, countHosts } = startPoolAndCount({ size: 8 });
    const hosts = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((tenantId) => pool.acquire(tenantId)));
    // The spare is being started when the last of these is.
    await waitFor(() => (countHosts() > hosts.length ? true : undefined), {
      what: 'the spare',
      seen: countHosts,
    });
    for (const host of hosts) pool.release(host, Promise.resolve());
    await Promise.all(['a', 'b', 'c', 'd', 'e'].map((tenantId) => pool.acquire(tenantId)));
    expect(countHosts()).toBe(hosts.length + 1);
  }
});

const startPool = (options: { size: number }) => startPoolAndCount(options).pool;

function startPoolAndCount({ size }: { size: number }) {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-pool-'));
  const pool = createHostPool({
    size,
    dir,
    disk: blockingDisk,
    limits: { memoryMax: 2 ** 31, fileBytesMax: 2 ** 30, jobsMax: 100, recycleRss: 2 ** 30 },
    uidBase: undefined,
    compileCache: undefined,
    log: createLogger({ service: 'test', level: 'silent' }),
  });
  onTestFinished(async () => {
    await pool.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return { pool, countHosts: () => readdirSync(dir).length };
}
