import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { findRefs, orderSteps, workflowStateOf } from './workflow.ts';

describe('orderSteps', () => {
  const graphs = fc
    .array(fc.uniqueArray(fc.nat(14), { maxLength: 3 }), { minLength: 1, maxLength: 15 })
    .map((rows) => {
      const size = rows.length;
      return new Map(
        rows.map((parents, index) => [`s${index}`, [...new Set(parents.map((n) => `s${n % size}`))]]),
      );
    });

  test('every step comes after those that it waits for, or a cycle is named, step by step', () => {
    fc.assert(
      fc.property(graphs, (parents) => {
        const order = orderSteps(parents);
        if (order.type === 'cycle') {
          order.names.forEach((name, index) =>
            expect(parents.get(name)).toContain(order.names[(index + 1) % order.names.length]),
          );
          return;
        }
        expect(order.names.toSorted()).toEqual([...parents.keys()].toSorted());
        order.names.forEach((name, index) => {
          for (const parent of parents.get(name) ?? [])
            expect(order.names.indexOf(parent)).toBeLessThan(index);
        });
      }),
    );
  });

  test('a chain of a thousand steps, last one first, is ordered', () => {
    const names = Array.from({ length: 1_000 }, (_, index) => `s${index}`);
    const parents = new Map(names.map((name, index) => [name, index === 999 ? [] : [`s${index + 1}`]]));
    expect(orderSteps(parents)).toEqual({ type: 'ordered', names: names.toReversed() });
  });
});

test('references are found wherever they stand, with their paths', () => {
  expect(findRefs({ a: [1, { $from: 'x', path: 'b.0' }], c: { $from: 'y' }, d: { from: 'z' } })).toEqual({
    refs: [
      { at: ['a', '1'], from: 'x', path: ['b', '0'] },
      { at: ['c'], from: 'y', path: [] },
    ],
    problems: [],
  });
  expect(findRefs({ $from: 5 }).problems).toEqual([{ at: [], detail: '$from must be the name of a step.' }]);
});

test('a workflow runs until all has ended; a failure outweighs a cancel', () => {
  const states = [
    [1, 1, 1],
    [0, 1, 1],
    [0, 0, 1],
    [0, 0, 0],
  ].map(([open = 0, failed = 0, cancelled = 0]) => workflowStateOf({ open, failed, cancelled }));
  expect(states).toEqual(['running', 'failed', 'cancelled', 'succeeded']);
});
