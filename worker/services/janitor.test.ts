/** The janitor deletes what nobody can reach, and only that, whatever the clock of its process says. */
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, expect, test, vi } from 'vitest';
import { createDb } from '#shared/db/pool.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createLogger } from '#shared/log.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { orphanAgeMs } from '#shared/storage/storage.ts';
import { blockingDisk } from '#test/support/blocking-disk.ts';
import { createWorld } from '#test/support/world.ts';
import { createJanitor } from './janitor.ts';

afterEach(() => {
  vi.useRealTimers();
});

test.each([
  ['an hour ahead', 61 * 60_000],
  ['an hour behind', -61 * 60_000],
  ['right', 0],
])('F57: a worker whose clock is %s deletes nothing that was stored just now', async (_, offsetMs) => {
  await withStored(async ({ janitor, left }) => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + offsetMs });
    expect(await janitor.sweep(orphanAgeMs)).toBe(0);
    expect(await left()).toEqual({ files: 1, parts: 1, scratch: 1 });
  });
});

test('F57: a worker whose clock is an hour behind deletes what is old enough', async () => {
  await withStored(async ({ janitor, left }) => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 61 * 60_000 });
    // The clock of a file system ticks coarsely: what is due now is seen a tick later.
    await vi.waitFor(async () => {
      await janitor.sweep(0);
      expect(await left()).toEqual({ files: 0, parts: 0, scratch: 0 });
    });
  });
});

interface Stored {
  readonly janitor: ReturnType<typeof createJanitor>;
  left(): Promise<{ files: number; parts: number; scratch: number }>;
}

/** Bytes whose row is not yet committed, a part that is being written, the directory of a worker that is just starting. */
async function withStored(work: (stored: Stored) => Promise<void>): Promise<void> {
  const world = await createWorld();
  const db = createDb({ url: world.databaseUrl, size: 2, timeoutMs: 10_000, name: 'janitor-test' });
  const source = new Readable({ read() {} });
  try {
    const storage = createFsStorage({ dir: join(world.dataDir, 'files') });
    const scratchRoot = join(world.dataDir, 'scratch');
    const limits = { sizeBytesMax: 10 };
    await storage.put(uuidv7(), Readable.from([Buffer.from('stored')]), limits);
    const putting = storage.put(uuidv7(), source, limits).catch(() => undefined);
    await mkdir(join(scratchRoot, uuidv7()), { recursive: true });
    const left = async () => {
      let files = 0;
      for await (const _ of storage.list()) files += 1;
      const count = async (dir: string) => (await readdir(join(world.dataDir, dir))).length;
      return { files, parts: await count('files/parts'), scratch: await count('scratch') };
    };
    await vi.waitFor(async () => expect((await left()).parts).toBe(1));
    const log = createLogger({ service: 'janitor-test', level: 'silent' });
    await work({
      janitor: createJanitor({
        db,
        storage,
        disk: blockingDisk,
        scratchRoot,
        idempotencyMs: 86_400_000,
        log,
      }),
      left,
    });
    source.destroy();
    await putting;
  } finally {
    source.destroy();
    await db.end();
    await world.dispose();
  }
}
