import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { blockingDisk } from '#test/support/blocking-disk.ts';
import { expect, onTestFinished, test } from 'vitest';
import { createLogger } from '#shared/log.ts';
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

function startPool({ size }: { size: number }) {
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
  return pool;
}
