import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import { createDb, type Db } from '#shared/db/pool.ts';
import { defineTask, z } from '#shared/tasks/define-task.ts';
import type { LoadedTask } from '#shared/tasks/load-tasks.ts';
import type { EachRequest } from '#shared/tasks/task-context.ts';
import { NotNowError } from '#shared/tasks/task-errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { insertJob } from '#test/support/insert-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { createEachSteps, type EachStep } from './each-step.ts';

let world: World;
let db: Db;

beforeEach(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 4, timeoutMs: 5_000, name: 'test' });
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

const task = defineTask({
  name: 'test.take',
  title: 'Take',
  description: 'Takes a value.',
  queue: 'take',
  input: z.strictObject({ value: z.unknown() }),
  output: z.unknown(),
  example: { value: 1 },
});
const tasks = new Map<string, LoadedTask>([[task.name, { definition: task, handlerUrl: undefined }]]);

let isFull = false;

interface Started {
  readonly id: string;
  readonly each: EachStep;
  /** Another run of the same job, which knows nothing of the first. */
  again(): EachStep;
}

async function startStep(resultBytesMax = 1_000): Promise<Started> {
  const workerId = uuidv7();
  const id = await insertJob(db, { state: 'active', task: 'workflow.each', queue: 'workflow', workerId });
  const create = createEachSteps({
    db,
    tasks,
    resultBytesMax,
    retentionMs: 60_000,
    isBacklogFull: async () => isFull,
    onQueued: () => {},
  });
  const job = { tenantId: 'default', id, fence: 0, workerId, traceparent: null } as ClaimedJob;
  const again = () => create(job, new AbortController().signal);
  return { id, each: again(), again };
}

const request = (items: unknown, more: Partial<EachRequest> = {}): EachRequest => ({
  workflow: { id: '0199d7a3-1f5c-7cc0-8000-000000000000', step: 'all' },
  task: task.name,
  items,
  input: { value: null },
  places: [{ at: ['value'], path: [] }],
  options: {},
  limit: 5,
  optionalItems: false,
  previous: null,
  ...more,
});

const countItems = async () => (await db.query('SELECT FROM jobs WHERE each_id IS NOT NULL')).rowCount;

test('makes nothing while too many jobs wait or the worker does not know the task, and goes on later', async () => {
  const { each } = await startStep();
  isFull = true;
  await expect(each.step(request([1, 2]))).rejects.toThrow(NotNowError);
  isFull = false;
  await expect(each.step(request([1, 2], { task: 'test.unknown' }))).rejects.toThrow(NotNowError);
  expect([await countItems(), each.verdict()]).toEqual([0, undefined]);
  expect(await each.step(request([1, 2]))).toEqual({ type: 'making', made: 2, total: 2 });
  await expect(each.step(request([1, 2]))).rejects.toThrow('waits');
  expect(each.verdict()).toEqual({ type: 'waits' });
});

test('inputs that are too large together fail the step, and no transaction holds more than a page of them', async () => {
  const { each } = await startStep();
  // Of two bytes each: how long it is as JSON is known only when it is made.
  const large = 'é'.repeat(512 * 1024);
  const input = { value: { large, n: null } };
  const much = request(Array(100).fill(0), { input, places: [{ at: ['value', 'n'], index: true }] });
  const made: number[] = [];
  await expect(
    (async () => {
      for (;;) {
        const step = await each.step(much);
        made.push(step.type === 'making' ? step.made : -1);
      }
    })(),
  ).rejects.toThrow('forEachInputBytesMax');
  expect(made.slice(0, 3)).toEqual([2, 4, 6]);
  expect(made.at(-1)).toBeLessThan(64);
  expect(each.verdict()).toMatchObject({ type: 'failed', error: { code: 'task-input' } });
});

test('what earlier runs have made counts as well', async () => {
  const { each, again } = await startStep();
  const large = 'é'.repeat(512 * 1024);
  const input = { value: { large, n: null } };
  const much = request(Array(66).fill(0), { input, places: [{ at: ['value', 'n'], index: true }] });
  for (let made = 0; made < 60;) {
    const step = await each.step(much);
    made = step.type === 'making' ? step.made : Infinity;
  }
  const second = again();
  const goOn = async () => {
    for (;;) await second.step(much);
  };
  await expect(goOn()).rejects.toThrow('forEachInputBytesMax');
});

test('a list and an input that multiply to too much fail the step before the input of any item is made', async () => {
  const { each } = await startStep();
  const many = Array.from({ length: 5_000 }, () => 0);
  const places = many.map((_, at) => ({ at: ['value', String(at)], path: [] }));
  const much = request([many], { input: { value: many }, places });
  await expect(each.step(much)).rejects.toThrow('forEachInputKeysMax');
  expect(each.verdict()).toMatchObject({ type: 'failed', error: { code: 'task-input' } });
  expect(await countItems()).toBe(0);
});

test('results that are too large together are not read', async () => {
  const { id, each } = await startStep(100);
  await each.step(request([1]));
  await db.query(
    `UPDATE jobs SET state = 'succeeded', finished_at = now(), result = to_json(repeat('x', 200)) WHERE each_id = $1`,
    [id],
  );
  await expect(each.step(request([1]))).rejects.toThrow('WINDLASS_RESULT_BYTES_MAX');
  expect(each.verdict()).toMatchObject({ type: 'failed', error: { code: 'result-too-large' } });
});

test('the limit of the step holds the items of this step together, and an own key of theirs goes before', async () => {
  const { id, each } = await startStep();
  await each.step(request([1]));
  const own = await startStep();
  await own.each.step(request([1], { limit: null, options: { concurrencyKey: 'mine', tags: ['t'] } }));
  const { rows } = await db.query(
    'SELECT concurrency_key AS key, concurrency_max AS max, tags FROM jobs WHERE each_id IS NOT NULL ORDER BY created_at',
  );
  expect(rows).toEqual([
    { key: `\u0001${id}`, max: 5, tags: [] },
    { key: 'mine', max: 1, tags: ['t'] },
  ]);
});
