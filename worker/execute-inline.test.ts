import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, onTestFinished, test } from 'vitest';
import { createDb } from '#shared/db/pool.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { StoredFileMissingError } from '#shared/storage/storage.ts';
import { task as definition } from '#tasks/email-send/task.ts';
import { createExecuteInline } from './execute-inline.ts';
import { blockingDisk } from '#test/support/blocking-disk.ts';
import { createOutputStore } from './output-store.ts';
import { createRuns } from './runs.ts';

test('a run whose second input is gone leaves no link to the first one behind', async () => {
  const root = mkdtempSync(join(tmpdir(), 'windlass-inline-'));
  // Never connected: the run ends before it needs the database.
  const db = createDb({ url: 'postgres://127.0.0.1:1/none', size: 1, timeoutMs: 1_000, name: 'test' });
  onTestFinished(async () => {
    await db.end();
    rmSync(root, { recursive: true, force: true });
  });
  const storage = createFsStorage({ dir: join(root, 'files') });
  const [stored, missing] = [uuidv7(), uuidv7()];
  const { sizeBytes, sha256 } = await storage.put(stored, Readable.from([Buffer.from('bytes')]), {
    sizeBytesMax: 100,
  });
  const limits = { resultBytesMax: 100, outputFilesMax: 1, outputFileBytesMax: 100 };
  const dir = join(root, 'inline');
  const execute = createExecuteInline({
    db,
    storage,
    outputStore: createOutputStore({ db, storage, disk: blockingDisk, limits }),
    dir,
    disk: blockingDisk,
    settings: {},
    createBulkStep: () => () => Promise.reject(new Error('Not a bulk action.')),
    createEachStep: () => ({ step: async () => ({ type: 'ended', results: [] }), verdict: () => undefined }),
  });
  const job = {
    id: uuidv7(),
    tenantId: 'default',
    task: definition.name,
    queue: definition.queue,
    fence: 1,
    input: definition.example,
    workerId: uuidv7(),
    options: {},
    attemptsUsed: 0,
    attemptsMax: 1,
    crashes: 0,
    createdAt: new Date(),
    traceparent: null,
    batchId: null,
    eachId: null,
    hasKey: false,
    files: [stored, missing].map((id) => ({ id, name: 'f', mediaType: 'text/plain', sizeBytes, sha256 })),
  };
  const run = createRuns().start({ jobId: job.id, fence: 1, workerId: job.workerId, task: job.task });
  const reports = { progress: () => {}, log: () => {}, dropProgress: () => {}, flush: async () => {} };
  await expect(execute(job, { definition, handlerUrl: undefined }, run, reports)).rejects.toThrow(
    StoredFileMissingError,
  );
  expect(readdirSync(dir)).toEqual([]);
});
