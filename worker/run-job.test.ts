import { expect, test } from 'vitest';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import { defineTask, z } from '#shared/tasks/define-task.ts';
import { createLogger } from '#shared/log.ts';
import { createRunJob } from './run-job.ts';
import { createRuns } from './runs.ts';

const definition = defineTask({
  name: 'test.any',
  title: 'Any',
  description: 'Any task.',
  queue: 'host',
  input: z.unknown(),
  output: z.unknown(),
  example: null,
});

const job: ClaimedJob = {
  id: '019abc00-0000-7000-8000-000000000000',
  tenantId: 'default',
  task: 'test.any',
  queue: 'host',
  fence: 1,
  workerId: '019abc00-0000-7000-8000-000000000001',
  input: null,
  options: {},
  attemptsUsed: 0,
  attemptsMax: 3,
  crashes: 0,
  createdAt: new Date(),
  traceparent: null,
  batchId: null,
  eachId: null,
  hasKey: false,
  files: [],
};

test('a run whose end cannot be written gives its task host back, and is over', async () => {
  const disposed: string[] = [];
  const runs = createRuns();
  const refuse = () => Promise.reject(new Error('relation "attempts" does not exist'));
  const limits = { outputFilesMax: 1, outputFileBytesMax: 1, resultBytesMax: 1 };
  const execute = async () => ({
    end: { type: 'returned' as const },
    collect: async () => ({ result: null, outputs: [] }),
    dispose: async () => void disposed.push(job.id),
  });
  const runJob = createRunJob({
    claims: { add: async () => job, idle: async () => {} },
    settles: { add: refuse, idle: async () => {} },
    tasks: new Map([[job.task, { definition, handlerUrl: undefined }]]),
    runs,
    executeInHost: execute,
    executeInline: execute,
    createReports: () => ({
      progress: () => {},
      log: () => {},
      dropProgress: () => {},
      flush: async () => {},
    }),
    outputStore: { limits, read: refuse, collect: refuse, discard: async () => {} },
    signals: { ended: () => {}, cancel: () => {} },
    onKeyFreed: () => {},
    endingMax: 0,
    onBatchJobEnded: () => {},
    onItemEnded: () => {},
    log: createLogger({ service: 'test', level: 'silent' }),
  });
  await runJob({ jobId: job.id, fence: 0 }, () => {});
  expect(disposed).toEqual([job.id]);
  expect(runs.list()).toEqual([]);
});
