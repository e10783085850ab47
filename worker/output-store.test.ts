import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { Db } from '#shared/db/pool.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { defineTask, z } from '#shared/tasks/define-task.ts';
import { blockingDisk } from '#test/support/blocking-disk.ts';
import { createOutputStore } from './output-store.ts';

const definition = defineTask({
  name: 'test.output',
  title: 't',
  description: 'd',
  input: z.strictObject({}),
  output: z.unknown(),
  example: {},
});

test('an output that was never written is named as such, without a path of ours', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'windlass-outputs-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  // The rows are somebody else's test: every statement finds the one row that it asks for.
  const db = { query: () => Promise.resolve({ rows: [], rowCount: 1 }) } as unknown as Db;
  const store = createOutputStore({
    db,
    storage: createFsStorage({ dir: join(dir, 'files') }),
    disk: blockingDisk,
    limits: { resultBytesMax: 1_000, outputFilesMax: 10, outputFileBytesMax: 1_000 },
  });
  const id = '019abc00-0000-7000-8000-000000000000';
  const collected = store.collect({
    run: { jobId: id, fence: 1, workerId: id },
    definition,
    inputFileIds: [],
    returned: { result: null, outputs: [{ id, name: 'report.pdf', mediaType: 'application/pdf' }] },
    outDir: dir,
    signal: new AbortController().signal,
  });
  await expect(collected).rejects.toMatchObject({
    code: 'task-output',
    message: 'The output file "report.pdf" cannot be taken: the task wrote nothing to it.',
  });
  await expect(store.read(dir)).rejects.toMatchObject({
    message: 'The result of the task cannot be read: the task wrote nothing to it.',
  });
});
