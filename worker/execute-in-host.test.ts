import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, onTestFinished, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import type { Storage } from '#shared/storage/storage.ts';
import { blockingDisk } from '#test/support/blocking-disk.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createPrepareInHost } from './execute-in-host.ts';
import type { Prepare } from './run-job.ts';
import type { TaskHost } from './task-host/host.ts';
import type { NewRun } from './task-host/run-files.ts';

test('inputs that cannot be linked are copied before the host gets them', async () => {
  const { storage, root, run, received } = start();
  const { id } = await store(storage, 'bytes');
  const missing = uuidv7();
  await expect(run([{ id, sha256: '' }])).rejects.toThrow('SHA-256');
  expect(existsSync(join(root, 'run-1')), 'its directory is gone').toBe(false);
  await expect(run([{ id: missing, sha256: '' }])).rejects.toThrow(`No bytes are stored for file ${missing}`);
  expect(received).toEqual([]);
  const { sha256 } = await store(storage, 'bytes', id);
  await run([{ id, sha256 }]);
  expect(received).toEqual(['bytes']);
});

test('a run is prepared before it has a host, and leaves nothing when it does not begin', async () => {
  const { storage, root, prepareRun, received } = start();
  const { id } = await store(storage, 'bytes');
  const preparation = prepareRun([{ id, sha256: '' }]);
  await waitFor(() => (existsSync(join(root, 'run-1')) ? true : undefined), { what: 'its directory' });
  expect(preparation.drop()).toBe(true);
  await waitFor(() => (existsSync(join(root, 'run-1')) ? undefined : true), { what: 'it to be gone' });
  expect(received).toEqual([]);
});

test('a directory that could not be removed in time is removed when its host is gone', async () => {
  const { storage, root, run, blockRemoval } = start();
  const { id, sha256 } = await store(storage, 'bytes');
  blockRemoval();
  await run([{ id, sha256 }]);
  expect(existsSync(join(root, 'run-1'))).toBe(false);
});

test('the directory of a run becomes that of the next one of its tenant, and of no other', async () => {
  const { run, prepared } = start();
  for (const tenantId of ['a', 'b', 'a']) await run([], { tenantId });
  expect(prepared.map(({ spare }) => spare !== undefined)).toEqual([
    false,
    false,
    process.platform === 'linux',
  ]);
});

test('the directory of a run that was handed over to another user is removed', async () => {
  const { root, run, prepared } = start({ uid: process.getuid?.() });
  for (const tenantId of ['a', 'a']) await run([], { tenantId });
  expect(prepared.map(({ spare }) => spare)).toEqual([undefined, undefined]);
  expect(existsSync(join(root, 'run-1'))).toBe(false);
});

test('a run that a host has begun is followed there, and no other host is asked', async () => {
  const { prepareRun, offered, calls, begin, endRuns, root } = start({ runsOn: true });
  const reports = {} as never;
  const last = prepareRun([]).execute(reports);
  await waitFor(() => (calls.run === 1 ? true : undefined), { what: 'the last one to run' });
  const [next, another] = [prepareRun([], { name: 'run-2' }), prepareRun([], { name: 'run-3' })];
  await waitFor(() => (offered.length === 2 ? true : undefined), { what: 'both to be given' });
  expect(offered).toEqual([join(root, 'run-2'), join(root, 'run-3')]);
  begin(join(root, 'run-2'));
  expect([next.drop(), another.drop()], 'only what has not begun can be dropped').toEqual([false, true]);
  const execution = await next.execute(reports);
  expect([execution.end, calls]).toEqual([
    { type: 'returned' },
    { acquire: 1, run: 1, follow: 1, release: 1 },
  ]);
  await waitFor(() => (existsSync(join(root, 'run-3')) ? undefined : true), { what: 'the other to be gone' });
  endRuns();
  await last;
  expect(calls.release).toBe(2);
});

/** @param options.runsOn until `endRuns`. */
function start({ uid, runsOn = false }: { uid?: number | undefined; runsOn?: boolean } = {}) {
  const root = mkdtempSync(join(realpathSync(tmpdir()), 'execute-'));
  onTestFinished(() => rmSync(root, { recursive: true }));
  const linkable = createFsStorage({ dir: join(root, 'files') });
  // As a driver without a file system, or on another one.
  const storage: Storage = {
    ...linkable,
    linkSource: () => undefined,
    materialize: async (id, path, options) => {
      const bytes = await linkable.read(id);
      const other = createFsStorage({ dir: join(root, 'other') });
      const stored = await other.put(id, bytes, { sizeBytesMax: 100 });
      if (stored.sha256 !== options.sha256) throw new Error('The stored bytes have another SHA-256.');
      await other.materialize(id, path, options);
    },
  };
  const received: string[] = [];
  const prepared: NewRun[] = [];
  const exited = Promise.withResolvers<void>();
  /** It cannot be removed while its host lives. */
  let isBlocked = false;
  const calls = { acquire: 0, run: 0, follow: 0, release: 0 };
  const offered: string[] = [];
  const begun = new Set<string>();
  const ends = Promise.withResolvers<void>();
  const host = {
    exited: exited.promise,
    uid,
    tenantId: 'default',
    isReusable: () => true,
    offer({ runDir }: { runDir: string }) {
      offered.push(runDir);
      const follow = async () => {
        calls.follow += 1;
        return { type: 'returned' };
      };
      return { host, withdraw: () => !begun.has(runDir), follow };
    },
    async run(message: { files: { path: string }[] }) {
      calls.run += 1;
      received.push(...message.files.map((file) => readFileSync(file.path, 'utf8')));
      if (runsOn) await ends.promise;
      return { type: 'returned' };
    },
  } as unknown as TaskHost;
  const prepare = createPrepareInHost({
    pool: {
      async acquire() {
        calls.acquire += 1;
        return host;
      },
      release: () => void (calls.release += 1),
      retire() {
        isBlocked = false;
        exited.resolve();
      },
      close: async () => undefined,
    },
    storage,
    outputStore: { limits: {} } as never,
    disk: {
      ...blockingDisk,
      prepareRun(task) {
        prepared.push(task);
        return blockingDisk.prepareRun(task);
      },
      emptyTree: async (task) => !isBlocked && blockingDisk.emptyTree(task),
      removeTree: async (path, limits) => !isBlocked && blockingDisk.removeTree(path, limits),
    },
    dir: root,
  });
  const prepareRun = (
    files: { id: string; sha256: string }[],
    { tenantId = 'default', name = 'run-1' } = {},
  ) =>
    prepare(
      ...([
        { files, tenantId, queue: 'q' },
        { definition: {} },
        { name, signal: new AbortController().signal },
        { begin() {}, mayBeGiven: () => true },
      ] as unknown as Parameters<Prepare>),
    );
  const run = async (...given: Parameters<typeof prepareRun>) => {
    const execution = await prepareRun(...given).execute({} as never);
    await execution.dispose();
  };
  return {
    storage,
    root,
    prepareRun,
    run,
    received,
    prepared,
    offered,
    calls,
    begin: (dir: string) => begun.add(dir),
    endRuns: ends.resolve,
    blockRemoval: () => void (isBlocked = true),
  };
}

async function store(storage: Storage, text: string, id = uuidv7()) {
  return { id, ...(await storage.put(id, Readable.from([Buffer.from(text)]), { sizeBytesMax: 100 })) };
}
