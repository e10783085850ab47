import { expect, test } from 'vitest';
import { z } from 'zod';
import type { ReplayedRow } from '#shared/db/bulk-actions.ts';
import { uuidv7 } from '#shared/ids.ts';
import { defineTask, fileRef } from '#shared/tasks/define-task.ts';
import type { LoadedTask } from '#shared/tasks/load-tasks.ts';
import { createTaskRules } from './task-rules.ts';

const read = defineTask({
  name: 'test.read',
  title: 'Read',
  description: 'Reads a file.',
  queue: 'q',
  input: z.strictObject({ file: fileRef(), n: z.int().optional() }),
  output: z.object({}),
  example: { file: '0195b7e4-5d3c-7000-8000-000000000000' },
  attempts: { default: 2, max: 4 },
});
const inner = defineTask({ ...read, name: 'test.inner', isInternal: true });
const throwing = defineTask({
  ...read,
  name: 'test.throwing',
  input: z.strictObject({
    n: z.int().refine((n) => {
      if (n === 13) throw new Error('a bug of the task');
      return true;
    }),
  }),
  example: { n: 1 },
});
const tasks = new Map<string, LoadedTask>(
  [read, inner, throwing].map((definition) => [definition.name, { definition, handlerUrl: undefined }]),
);
const rules = createTaskRules(tasks, { retentionMs: 5_000 });
const file = uuidv7();

const row = (fields: Partial<ReplayedRow> = {}): ReplayedRow => ({
  id: uuidv7(),
  tenant_id: 'acme',
  task: 'test.read',
  input: { file, n: 1 },
  options: { runAt: '2026-01-01T00:00:00.000Z', timeoutMs: 500, startWithinMs: 700, replayOf: uuidv7() },
  priority: 3,
  tags: ['a'],
  attempts_max: 4,
  retention_ms: 60_000,
  is_purged: false,
  ...fields,
});

test('a job is made again with its task, input and options, except for when it was to start', () => {
  const old = row();
  expect(rules.makeAgain(old)).toMatchObject({
    tenantId: 'acme',
    task: 'test.read',
    queue: 'q',
    input: { file, n: 1 },
    options: { timeoutMs: 500, startWithinMs: 700, replayOf: old.id },
    priority: 3,
    tags: ['a'],
    attemptsMax: 4,
    retentionMs: 60_000,
    delayMs: 0,
    runAt: null,
    inputFiles: [file],
    batchId: null,
    scheduleKey: null,
    idempotency: null,
  });
});

test.each<[string, Partial<ReplayedRow>, string]>([
  ['whose task is gone', { task: 'test.gone' }, 'unknown-task'],
  ['of a task that clients cannot send', { task: 'test.inner' }, 'unknown-task'],
  ['whose input does not fit any more', { input: { file, more: true } }, 'invalid-input'],
  ['with more attempts than are allowed by now', { attempts_max: 5 }, 'invalid-input'],
  ['whose check throws', { task: 'test.throwing', input: { n: 13 } }, 'invalid-input'],
])('a job %s is not made again', (_what, fields, code) => {
  const old = row(fields);
  expect(rules.makeAgain(old)).toMatchObject({ jobId: old.id, code });
});

test('files of an input are found; what clients cannot send has none', () => {
  expect(rules.findFiles('test.read', { file })).toEqual([file]);
  expect(rules.findFiles('test.inner', { file })).toBeUndefined();
  expect(rules.findFiles('test.gone', {})).toBeUndefined();
});
