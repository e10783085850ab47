import { expect, test } from 'vitest';
import { defineTask, z } from '#shared/tasks/define-task.ts';
import { findQueuesAhead } from './queues-ahead.ts';

type Fields = Partial<
  Pick<
    Parameters<typeof defineTask>[0],
    'attempts' | 'isolation' | 'onCrash' | 'rateLimit' | 'rateLimitPerKey'
  >
>;

const task = (queue: string, name: string, fields: Fields = {}) =>
  defineTask({
    name: `test.${name}`,
    title: 't',
    description: 'd',
    queue,
    input: z.unknown(),
    output: z.unknown(),
    example: null,
    ...fields,
  });

test.each<{ what: string; fields: Fields; isAhead: boolean }>([
  { what: 'runs in a task host', fields: {}, isAhead: true },
  { what: 'runs inside the worker', fields: { isolation: 'inline' }, isAhead: false },
  { what: 'must not run again after a crash', fields: { onCrash: 'fail' }, isAhead: false },
  { what: 'has one attempt', fields: { attempts: { default: 1, max: 3 } }, isAhead: false },
  { what: 'has a rate', fields: { rateLimit: { max: 5, perMs: 1_000 } }, isAhead: false },
  { what: 'has a rate for each key', fields: { rateLimitPerKey: { max: 5, perMs: 1_000 } }, isAhead: false },
])('a queue whose task $what is claimed ahead: $isAhead', ({ fields, isAhead }) => {
  expect([...findQueuesAhead([task('q', 'one', fields)])]).toEqual(isAhead ? ['q'] : []);
});

test('one task that must not be claimed ahead keeps its queue from it, and no other queue', () => {
  const tasks = [task('q', 'one'), task('q', 'two', { onCrash: 'fail' }), task('other', 'three')];
  expect([...findQueuesAhead(tasks)]).toEqual(['other']);
  expect([...findQueuesAhead(tasks.toReversed())]).toEqual(['other']);
});
