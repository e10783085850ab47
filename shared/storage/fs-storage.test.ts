import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, statSync } from 'node:fs';
import {
  chmod,
  open,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  utimes,
  writeFile,
  type FileHandle,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { createDiskThreads } from '#shared/disk/disk-threads.ts';
import { uuidv7 } from '#shared/ids.ts';
import { makeDirectory } from './fs-directory.ts';
import { createFsStorage } from './fs-storage.ts';
import { describeStorage } from './storage-conformance.ts';
import { StoredFileMissingError, type Storage } from './storage.ts';

const MiB = 1024 * 1024;
const run = promisify(execFile);

describeStorage('the file system', async () => {
  const { dir, storage } = setup();
  return { storage, cleanUp: () => rm(dir, { recursive: true }) };
});

describeStorage('the file system with threads', async () => {
  const { dir } = setup();
  const threads = createDiskThreads();
  return {
    storage: createFsStorage({ dir: join(dir, 'files'), threads }),
    async cleanUp() {
      await threads.close();
      await rm(dir, { recursive: true });
    },
  };
});

describe('on disk', () => {
  test('the umask does not decide who may read, and parts and files end up where they belong', async () => {
    const { dir, storage } = setup();
    const before = process.umask(0o077);
    onTestFinished(() => void process.umask(before));
    const id = uuidv7();
    await storage.put(id, Readable.from([Buffer.from('x')]), { sizeBytesMax: 1 });
    process.umask(before);
    const modes = await Promise.all(
      ['', 'parts', id.slice(-2), join(id.slice(-2), id)].map(async (path) => {
        const { mode } = await stat(join(dir, 'files', path));
        return (mode & 0o7777).toString(8);
      }),
    );
    expect(modes).toEqual(['2770', '2770', '2770', '664']);
  });

  test('a directory that exists keeps the mode its owner gave it', async () => {
    const { dir, storage } = setup();
    await storage.check();
    await chmod(join(dir, 'files'), 0o750);
    await createFsStorage({ dir: join(dir, 'files') }).check();
    expect((await stat(join(dir, 'files'))).mode & 0o7777).toBe(0o750);
  });

  test('materialize costs no copy on the same file system', async () => {
    const { dir, storage } = setup();
    const { id, sha256 } = await store(storage, randomBytes(MiB));
    const path = join(dir, 'input');
    await storage.materialize(id, path, { sha256 });
    expect((await stat(path)).ino).toBe((await stat(join(dir, 'files', id.slice(-2), id))).ino);
  });

  test('a directory that is there can be written into: it has its mode before its name', async () => {
    const { dir } = setup();
    const modes = new Set<number>();
    for (let n = 0; n < 100; n += 1) {
      const path = join(dir, `d${n}`);
      const made = makeDirectory(path).then(() => true);
      // Synchronous looks between the operations of the other, which runs on other threads.
      for (let isMade = false; !isMade; isMade = await Promise.race([made, setImmediate(false)]))
        for (let looks = 0; looks < 50; looks += 1) {
          const found = statSync(path, { throwIfNoEntry: false });
          if (found !== undefined) modes.add(found.mode & 0o7777);
        }
    }
    expect([...modes].map((mode) => mode.toString(8))).toEqual(['2770']);
  });

  test('a directory removed under a running process is made again', async () => {
    const { dir, storage } = setup();
    await store(storage, Buffer.from('x'));
    await rm(join(dir, 'files'), { recursive: true });
    await expect(store(storage, Buffer.from('x'))).rejects.toMatchObject({ code: 'unavailable' });
    const { id } = await store(storage, Buffer.from('y'));
    expect((await buffer(await storage.read(id))).toString()).toBe('y');
  });

  test('list takes nothing for a file that is not one', async () => {
    const { dir, storage } = setup();
    const { id } = await store(storage, Buffer.from('x'));
    await writeFile(join(dir, 'files', id.slice(-2), 'notes.txt'), 'x');
    await writeFile(join(dir, 'files', 'lost+found'), 'x');
    expect(await listedIds(storage)).toEqual([id]);
  });

  test('sweepParts deletes what has not been written to for that long, and only that', async () => {
    const { dir, storage } = setup();
    await storage.check();
    const parts = join(dir, 'files', 'parts');
    await writeFile(join(parts, 'young'), 'x');
    await writeFile(join(parts, 'old'), 'x');
    const anHourAgo = new Date(Date.now() - 3_600_000);
    await utimes(join(parts, 'old'), anHourAgo, anHourAgo);
    expect(await storage.sweepParts(1_800_000)).toBe(1);
    expect(await readdir(parts)).toEqual(['young']);
  });

  test('no file descriptor stays open after puts and reads that failed', async () => {
    const { dir, storage } = setup();
    const { id } = await store(storage, randomBytes(MiB));
    for (let i = 0; i < 5; i += 1) {
      await expect(
        storage.put(uuidv7(), Readable.from([Buffer.alloc(10)]), { sizeBytesMax: 9 }),
      ).rejects.toThrow('larger than 9 bytes');
      await expect(storage.read(uuidv7())).rejects.toThrow(StoredFileMissingError);
      (await storage.read(id)).destroy();
    }
    await eventually(async () => expect(await openFilesUnder(dir)).toEqual([]));
  });
});

describe('on another file system than the reader', async () => {
  const isOther = (await deviceOf('/dev/shm')) !== (await deviceOf(tmpdir()));

  test.skipIf(!isOther)(
    'materialize copies, verifies, and gives a file that everyone may only read',
    async () => {
      const { storage } = setup();
      const bytes = randomBytes(3 * MiB);
      const { id, sha256 } = await store(storage, bytes);
      const path = join(temporaryDirectory('/dev/shm'), 'input');
      await storage.materialize(id, path, { sha256 });
      expect((await readFile(path)).equals(bytes)).toBe(true);
      expect((await stat(path)).mode & 0o7777).toBe(0o444);
      await expect(storage.materialize(id, path, { sha256 })).rejects.toThrow('EEXIST');
      expect((await readFile(path)).equals(bytes), 'what was there is not touched').toBe(true);
    },
  );

  test.skipIf(!isOther)('F67: bytes that were changed on disk are refused and not left behind', async () => {
    const { dir, storage } = setup();
    const { id, sha256 } = await store(storage, randomBytes(MiB));
    await writeFile(join(dir, 'files', id.slice(-2), id), randomBytes(MiB));
    const scratch = temporaryDirectory('/dev/shm');
    await expect(storage.materialize(id, join(scratch, 'input'), { sha256 })).rejects.toThrow(
      `instead of ${sha256}`,
    );
    expect(await readdir(scratch)).toEqual([]);
    expect(await openFilesUnder(scratch)).toEqual([]);
    await eventually(async () => expect(await openFilesUnder(dir)).toEqual([]));
  });

  test.skipIf(!isOther)('a copy of a missing file says that it is missing and leaves nothing', async () => {
    const { storage } = setup();
    const scratch = temporaryDirectory('/dev/shm');
    await expect(storage.materialize(uuidv7(), join(scratch, 'x'), { sha256: '' })).rejects.toThrow(
      StoredFileMissingError,
    );
    expect(await readdir(scratch)).toEqual([]);
  });
});

describe('durability', () => {
  test('the part is synced before it gets its name, and each directory after it got its entry', async () => {
    const { dir, storage } = setup();
    const id = uuidv7();
    const path = join(dir, 'files', id.slice(-2), id);
    const synced = await watchSync(async (target, sync) => {
      const isThere = await stat(path).then(
        () => 'named',
        () => 'not named',
      );
      await sync();
      return `${target.replace(`${dir}/`, '').replace(/\.[0-9a-f]{12}$/, '.<random>')} (${isThere})`;
    });
    await storage.put(id, Readable.from([Buffer.from('x')]), { sizeBytesMax: 1 });
    expect(synced.slice(-3)).toEqual([
      `files/parts/${id}.<random> (not named)`,
      'files (not named)',
      `files/${id.slice(-2)} (named)`,
    ]);
    expect(synced, 'the directory that holds ours').toContain(`${dir} (not named)`);
  });

  test('a directory that another process made is synced too: that one may not have come so far', async () => {
    const { dir, storage } = setup();
    const { id } = await store(storage, Buffer.from('x'));
    const synced = await watchSync(async (target) => target);
    await createFsStorage({ dir: join(dir, 'files') }).put(id, Readable.from([Buffer.from('y')]), {
      sizeBytesMax: 1,
    });
    expect(synced.filter((path) => path === join(dir, 'files'))).toHaveLength(2);
  });

  test.for(['parts', 'shard'])(
    'F13: an fsync that fails (%s) fails the put and leaves nothing',
    async (where) => {
      const { storage } = setup();
      await storage.check();
      const id = uuidv7();
      await watchSync(async (target, sync) => {
        const isIt = where === 'parts' ? target.includes('/parts/') : target.endsWith(`/${id.slice(-2)}`);
        if (isIt) throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' });
        await sync();
        return target;
      });
      await expect(
        storage.put(id, Readable.from([Buffer.from('x')]), { sizeBytesMax: 1 }),
      ).rejects.toMatchObject({ code: 'unavailable' });
      await expect(storage.stat(id)).rejects.toThrow(StoredFileMissingError);
      expect(await storage.sweepParts(-60_000)).toBe(0);
    },
  );

  test('a slow upload is written at least every 5 s, so that its part does not look abandoned', async () => {
    const { dir, storage } = setup();
    await storage.check();
    const clock = vi.spyOn(performance, 'now');
    onTestFinished(() => clock.mockRestore());
    const source = new Readable({ read() {} });
    const result = storage.put(uuidv7(), source, { sizeBytesMax: MiB });
    source.push('a');
    while (source.readableLength > 0) await setImmediate();
    expect((await onlyPart(dir)).size).toBe(0);
    const now = performance.now();
    clock.mockImplementation(() => now + 5_000);
    source.push('b');
    while ((await onlyPart(dir)).size === 0) await setImmediate();
    source.push(null);
    expect((await result).sizeBytes).toBe(2);
  });
});

describe('when the process dies', () => {
  test('F1: killed while bytes arrive, it leaves a part and no file', async () => {
    const { dir, storage } = setup();
    const id = uuidv7();
    const child = startChild(dir, id, 'none', 'stall');
    // The third MiB stays with the process: it is written with the end, or when 5 s have passed.
    await eventually(async () => expect((await onlyPart(dir)).size).toBeGreaterThanOrEqual(2 * MiB));
    child.kill('SIGKILL');
    await once(child, 'exit');
    await expectOnlyAPart(dir, storage, id);
  });

  test.for(['storage.before-sync', 'storage.before-rename'])(
    'F2: killed at %s, it leaves a part and no file under the final name',
    async (crashAt) => {
      const { dir, storage } = setup();
      const id = uuidv7();
      const child = startChild(dir, id, crashAt, 'end');
      const [, signal] = await once(child, 'exit');
      expect(signal).toBe('SIGKILL');
      expect((await onlyPart(dir)).size).toBe(3 * MiB);
      await expectOnlyAPart(dir, storage, id);
    },
  );

  test('F3: killed after the file has its name, it leaves whole bytes that the orphan sweep can find', async () => {
    const { dir, storage } = setup();
    const id = uuidv7();
    const child = startChild(dir, id, 'none', 'end');
    await once(child.stdout ?? child, 'data');
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(await listedIds(storage)).toEqual([id]);
    expect((await storage.stat(id)).sizeBytes).toBe(3 * MiB);
    expect(await storage.sweepParts(-60_000)).toBe(0);
  });
});

describe('when the disk does not play along', () => {
  test('a rename that fails leaves nothing', async () => {
    const { dir, storage } = setup();
    const id = uuidv7();
    await storage.check();
    // A file where the directory should be.
    await writeFile(join(dir, 'files', id.slice(-2)), '');
    await expect(storage.put(id, Readable.from([Buffer.alloc(10)]), { sizeBytesMax: 10 })).rejects.toThrow(
      'ENOTDIR',
    );
    expect(await readdir(join(dir, 'files', 'parts'))).toEqual([]);
  });

  const isRoot = process.getuid?.() === 0;
  test.skipIf(!isRoot)(
    'F12: a full disk is storage-full, leaves nothing, and works again when there is room',
    async (ctx) => {
      const dir = temporaryDirectory(tmpdir());
      const mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', dir]).then(
        () => true,
        () => false,
      );
      if (!mounted) return ctx.skip('this environment does not allow mounts');
      onTestFinished(async () => void (await run('umount', [dir])));
      const storage = createFsStorage({ dir: join(dir, 'files') });
      const silent = new Readable({ read() {} });
      for (let i = 0; i < 6; i += 1) silent.push(randomBytes(MiB));
      // The source never ends: the full disk alone must end the put.
      await expect(storage.put(uuidv7(), silent, { sizeBytesMax: 64 * MiB })).rejects.toMatchObject({
        code: 'storage-full',
      });
      expect(await readdir(join(dir, 'files', 'parts'))).toEqual([]);
      const { id } = await store(storage, randomBytes(2 * MiB));
      expect((await storage.stat(id)).sizeBytes).toBe(2 * MiB);
      expect((await storage.check()).usedShare).toBeGreaterThanOrEqual(0.5);
      await run('mount', ['-o', 'remount,ro', dir]);
      // F14
      await expect(store(storage, Buffer.from('x'))).rejects.toMatchObject({ code: 'unavailable' });
      await expect(storage.check()).rejects.toThrow('EROFS');
      return undefined;
    },
  );
});

function setup() {
  const dir = temporaryDirectory(tmpdir());
  return { dir, storage: createFsStorage({ dir: join(dir, 'files') }) };
}

function temporaryDirectory(parent: string): string {
  // Not the promise, see storage-conformance.ts.
  const dir = mkdtempSync(join(parent, 'windlass-fs-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function store(storage: Storage, bytes: Buffer) {
  const id = uuidv7();
  return { id, ...(await storage.put(id, Readable.from([bytes]), { sizeBytesMax: 64 * MiB })) };
}

function startChild(dir: string, id: string, crashAt: string, ending: 'stall' | 'end'): ChildProcess {
  const script = fileURLToPath(new URL('./fs-storage-child.ts', import.meta.url));
  const child = spawn(process.execPath, [script, join(dir, 'files'), id, crashAt, ending], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

/** Puts itself between the driver and fsync, and gathers what `act` returns for each call. Undone after the test. */
async function watchSync(
  act: (target: string, sync: () => Promise<void>) => Promise<string>,
): Promise<string[]> {
  const any = await open('/dev/null');
  const prototype: FileHandle = Object.getPrototypeOf(any);
  await any.close();
  const results: string[] = [];
  const spy = vi.spyOn(prototype, 'sync').mockImplementation(async function (this: FileHandle) {
    // fdatasync stands in for the call that is watched.
    results.push(await act(await readlink(`/proc/self/fd/${this.fd}`), async () => this.datasync()));
  });
  onTestFinished(() => spy.mockRestore());
  return results;
}

async function onlyPart(dir: string) {
  const parts = await readdir(join(dir, 'files', 'parts'));
  expect(parts).toHaveLength(1);
  return stat(join(dir, 'files', 'parts', parts[0] ?? ''));
}

async function expectOnlyAPart(dir: string, storage: Storage, id: string): Promise<void> {
  await expect(storage.stat(id)).rejects.toThrow(StoredFileMissingError);
  expect(await listedIds(storage)).toEqual([]);
  expect(await storage.sweepParts(-60_000)).toBe(1);
  expect(await readdir(join(dir, 'files', 'parts'))).toEqual([]);
}

async function listedIds(storage: Storage): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of storage.list()) ids.push(id);
  return ids;
}

async function deviceOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    (stats) => stats.dev,
    () => undefined,
  );
}

/** Paths below `dir` that this process has open; empty where there is no /proc. */
async function openFilesUnder(dir: string): Promise<string[]> {
  const fds = await readdir('/proc/self/fd').catch(() => []);
  const targets = await Promise.all(fds.map((fd) => readlink(join('/proc/self/fd', fd)).catch(() => '')));
  return targets.filter((target) => target.startsWith(dir));
}

async function eventually(assertion: () => Promise<void>): Promise<void> {
  const deadline = performance.now() + 60_000;
  for (;;) {
    try {
      return await assertion();
    } catch (err) {
      if (performance.now() > deadline) throw err;
      await setImmediate();
    }
  }
}
