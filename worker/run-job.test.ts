import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import type { RunEnd } from '#shared/db/settle-runs.ts';
import { defineTask, z } from '#shared/tasks/define-task.ts';
import { createLogger } from '#shared/log.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { createRunJob, type Execute } from './run-job.ts';
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

type Deps = Parameters<typeof createRunJob>[0];

/** @param options.execute what the handler does. Default: it returns at once. */
function setup(
  options: {
    claimed?: Partial<ClaimedJob>;
    execute?: (...given: Parameters<Execute>) => Promise<void>;
    add?: Deps['settles']['add'];
    /** In the place of another run. */
    hasBegun?: boolean;
  } = {},
) {
  const disposed: string[] = [];
  const dropped: string[] = [];
  const settled: RunEnd[] = [];
  let fed = 0;
  const runs = createRuns();
  const refuse = () => Promise.reject(new Error('not asked for'));
  const execute: Execute = async (claimed, task, run, reports) => {
    await options.execute?.(claimed, task, run, reports);
    return {
      end: { type: run.signal.aborted ? 'stopped' : 'returned' },
      collect: async () => ({ result: null, outputs: [] }),
      dispose: async () => void disposed.push(claimed.id),
    };
  };
  const runJob = createRunJob({
    claims: { add: async ({ jobId }) => ({ ...job, id: jobId, ...options.claimed }), idle: async () => {} },
    settles: {
      add:
        options.add ??
        (async (end) => {
          settled.push(end);
          return end.settlement.state;
        }),
      idle: async () => {},
    },
    tasks: new Map([[job.task, { definition, handlerUrl: undefined }]]),
    runs,
    prepareInHost: (claimed, task, run) => ({
      execute: (reports) => execute(claimed, task, run, reports),
      drop() {
        if (options.hasBegun === true) return false;
        dropped.push(claimed.id);
        return true;
      },
    }),
    executeInline: execute,
    createReports: () => ({
      progress: () => {},
      log: () => {},
      dropProgress: () => {},
      flush: async () => {},
    }),
    outputStore: {
      limits: { outputFilesMax: 1, outputFileBytesMax: 1, resultBytesMax: 1 },
      read: refuse,
      collect: refuse,
      discard: async () => {},
    },
    signals: { ended: () => {}, cancel: () => {} },
    onFeedable: () => void (fed += 1),
    endingMax: 0,
    onBatchJobEnded: () => {},
    onItemEnded: () => {},
    log: createLogger({ service: 'test', level: 'silent' }),
  });
  return {
    runs,
    disposed,
    dropped,
    settled,
    fed: () => fed,
    run: (slot: true | Promise<boolean> = true, jobId = job.id) =>
      runJob({ jobId, fence: 0 }, () => {}, slot, { begin() {}, mayBeGiven: () => true }),
  };
}

test('a run whose end cannot be written gives its task host back, and is over', async () => {
  const { run, runs, disposed } = setup({
    add: () => Promise.reject(new Error('relation "attempts" does not exist')),
  });
  await run();
  expect(disposed).toEqual([job.id]);
  expect(runs.list()).toEqual([]);
});

test('what was claimed and found no slot is queued again without having begun, and is fed anew', async () => {
  let begun = 0;
  const { run, runs, settled, dropped, fed } = setup({ execute: async () => void (begun += 1) });
  await run(Promise.resolve(false));
  expect(dropped, 'what was prepared for it').toEqual([job.id]);
  expect(settled).toMatchObject([
    { settlement: { state: 'queued', outcome: 'interrupted', attemptsUsed: 0 } },
  ]);
  expect([begun, fed(), runs.list(), runs.takeDrain()]).toEqual([0, 1, [], {}]);
});

test('what has begun in the place of another run and gets no slot is executed all the same, and is queued again when it has stopped', async () => {
  const reasons: unknown[] = [];
  const { run, settled, dropped, disposed } = setup({
    hasBegun: true,
    execute: async (_job, _task, { signal }) => void reasons.push(signal.reason),
  });
  await run(Promise.resolve(false));
  await waitFor(() => (disposed.length === 1 ? true : undefined), { what: 'its end' });
  expect([reasons, dropped]).toEqual([['no-slot'], []]);
  expect(settled).toMatchObject([
    { settlement: { state: 'queued', outcome: 'interrupted', attemptsUsed: 0 } },
  ]);
});

test('what was cancelled while it stood in line does not begin when its turn comes', async () => {
  let begun = 0;
  const { run, runs, settled } = setup({ execute: async () => void (begun += 1) });
  const slot = Promise.withResolvers<boolean>();
  const ended = run(slot.promise);
  await waitFor(() => runs.find(job.id), { what: 'the claim' });
  runs.find(job.id)?.stop('cancelled');
  slot.resolve(true);
  await ended;
  expect([settled.map((end) => end.settlement.state), begun]).toEqual([['cancelled'], 0]);
});

test('the time in line is not that of the handler: its limits begin with the slot', async () => {
  const seen: boolean[] = [];
  const { run, runs, settled } = setup({
    claimed: { options: { softTimeoutMs: 1, timeoutMs: 2 } },
    async execute(_job, _task, { signal, softSignal }) {
      seen.push(softSignal.aborted, signal.aborted);
      await waitFor(() => (softSignal.aborted && signal.aborted ? true : undefined), {
        what: 'both limits to pass',
      });
      throw new Error('stopped');
    },
  });
  const slot = Promise.withResolvers<boolean>();
  const ended = run(slot.promise);
  await waitFor(() => runs.find(job.id), { what: 'the claim' });
  await sleep(50);
  slot.resolve(true);
  await ended;
  expect(seen).toEqual([false, false]);
  expect(settled).toMatchObject([{ settlement: { error: { code: 'task-timeout' } } }]);
  expect(runs.takeDrain()).toEqual({ host: 1 });
});

test('runs that end while others stand in line are held until the line is empty', async () => {
  const { run, settled } = setup();
  const slot = Promise.withResolvers<boolean>();
  const last = run(slot.promise);
  await sleep(0);
  const ends = ['first', 'second'].map((id) => run(true, id));
  await sleep(0);
  expect(settled).toEqual([]);
  slot.resolve(true);
  await Promise.all([last, ...ends]);
  expect(settled).toHaveLength(3);
});

test('a run whose time limit is near is not held: storing its outputs counts as well', async () => {
  const { run, settled } = setup({ claimed: { options: { timeoutMs: 900 } } });
  const slot = Promise.withResolvers<boolean>();
  const last = run(slot.promise);
  await sleep(0);
  const end = run(true, 'first');
  await sleep(0);
  expect(settled.map(({ jobId }) => jobId)).toEqual(['first']);
  slot.resolve(true);
  await Promise.all([last, end]);
});
