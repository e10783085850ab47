import { expect, test } from 'vitest';
import { defineTask, z } from '#shared/tasks/define-task.ts';
import { assignSlots } from './slots.ts';

const task = (name: string, queue: string, isolation: 'process' | 'inline') =>
  defineTask({
    name,
    queue,
    isolation,
    title: 't',
    description: 'd',
    input: z.strictObject({}),
    output: z.unknown(),
    example: {},
  });
const tasks = [
  task('a', 'image', 'process'),
  task('b', 'email', 'inline'),
  task('c', 'mixed', 'inline'),
  task('d', 'mixed', 'process'),
];
const defaults = { process: 2, inline: 50 };

test('every queue of a known task is served, those with child processes by the number of cores', () => {
  expect(assignSlots(tasks, { named: {}, ...defaults })).toEqual({
    perQueue: { image: 2, email: 50, mixed: 2 },
    process: 4,
  });
});

test('only named queues are served, with the slots that were named', () => {
  expect(assignSlots(tasks, { named: { image: 7 }, ...defaults })).toEqual({
    perQueue: { image: 7 },
    process: 7,
  });
});

test('a queue that no task uses is refused: it is a typing mistake that would leave jobs waiting', () => {
  expect(() => assignSlots(tasks, { named: { imgae: 2 }, ...defaults })).toThrow(
    /imgae.*Known: image, email, mixed/,
  );
});
