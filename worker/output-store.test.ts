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

const id = '019abc00-0000-7000-8000-000000000000';
const run = {
  run: { jobId: id, fence: 1, workerId: id },
  definition,
  inputFileIds: [],
  signal: new AbortController().signal,
};

function createStore(dir: string) {
  // The rows are somebody else's test: every statement finds the one row that it asks for.
  const db = { query: () => Promise.resolve({ rows: [{ id }], rowCount: 1 }) } as unknown as Db;
  return createOutputStore({
    db,
    storage: createFsStorage({ dir: join(dir, 'files') }),
    disk: blockingDisk,
    limits: { resultBytesMax: 1_000, outputFilesMax: 10, outputFileBytesMax: 1_000 },
  });
}

test.each([
  ['is longer in bytes than in characters', '€'.repeat(400), 'result-too-large', 'larger than 1000 bytes'],
  ['is nested too deep for JSON', deeplyNested(), 'task-output', 'nested too deep'],
])('a result that %s is refused', async (_, result, code, message) => {
  const collected = createStore('/nowhere').collect({
    ...run,
    returned: { result, outputs: [] },
    outDir: '/nowhere',
  });
  await expect(collected).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
});

test('an input cannot be declared as an output', async () => {
  const outputs = [{ id: run.run.jobId, name: 'x', mediaType: 'text/plain' }];
  const collected = createStore('/nowhere').collect({
    ...run,
    inputFileIds: [run.run.jobId],
    returned: { result: null, outputs },
    outDir: '/nowhere',
  });
  await expect(collected).rejects.toMatchObject({
    code: 'task-output',
    message: expect.stringContaining('its input'),
  });
});

function deeplyNested(): unknown {
  let value: unknown = [];
  for (let depth = 0; depth < 20_000; depth += 1) value = [value];
  return value;
}

test('an output that was never written is named as such, without a path of ours', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'windlass-outputs-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const store = createStore(dir);
  const collected = store.collect({
    ...run,
    returned: {
      result: null,
      outputs: [{ id: run.run.jobId, name: 'report.pdf', mediaType: 'application/pdf' }],
    },
    outDir: dir,
  });
  await expect(collected).rejects.toMatchObject({
    code: 'task-output',
    message: 'The output file "report.pdf" cannot be taken: the task wrote nothing to it.',
  });
  await expect(store.read(dir)).rejects.toMatchObject({
    message: 'The result of the task cannot be read: the task wrote nothing to it.',
  });
});
