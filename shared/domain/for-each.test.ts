import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createItemInput, findExcess, findPlaces, forEachInputKeysMax } from './for-each.ts';

test('what stands for the item and its number is found, and everything else stays as it is', () => {
  const input = {
    file: { $item: true, path: 'a.0' },
    list: [1, { $item: true }, { deep: { $index: true } }],
    from: { $from: 'other', path: '$item' },
  };
  const { places, problems } = findPlaces(input);
  expect(problems).toEqual([]);
  expect(createItemInput(input, places)({ a: ['x'] }, 7)).toEqual({
    file: 'x',
    list: [1, { a: ['x'] }, { deep: 7 }],
    from: input.from,
  });
});

test('a part that an item does not have is left out of an object, and null in a list', () => {
  const input = { a: { $item: true, path: 'no.thing' }, b: [{ $item: true, path: 'no' }] };
  const { places } = findPlaces(input);
  expect(createItemInput(input, places)({ no: undefined }, 0)).toEqual({ b: [null] });
  expect(createItemInput({ $item: true }, findPlaces({ $item: true }).places)(undefined, 0)).toBeNull();
});

test('nothing inside an item is read as a place, and no key reaches a prototype', () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.nat(100), (item, index) => {
      const input = JSON.parse('{"x": {"$item": true}, "__proto__": {"y": {"$index": true}}}') as unknown;
      const made = createItemInput(input, findPlaces(input).places)(item, index) as { x: unknown };
      expect(made.x).toBe(item);
      expect(Object.getPrototypeOf(made)).toBe(Object.prototype);
      expect(JSON.stringify(made)).toBe(`{"x":${JSON.stringify(item)},"__proto__":{"y":${index}}}`);
    }),
  );
  expect(createItemInput({}, [{ at: ['x'], path: ['constructor'] }])({}, 0)).toEqual({});
});

test('a small list and a small input that multiply to too much are told before any input is made', () => {
  const excess = (input: unknown, items: readonly unknown[]) =>
    findExcess(input, findPlaces(input).places, items);
  const many = Array.from({ length: 5_000 }, () => 0);
  const keys = expect.stringContaining('forEachInputKeysMax');
  expect(excess([{ $item: true }, ...many], many)).toEqual(keys);
  expect(
    excess(
      Array.from(many, () => ({ $item: true })),
      [many],
    ),
  ).toEqual(keys);
  expect(
    excess(
      Array.from(many, () => ({ $item: true, path: 'a.b' })),
      many,
    ),
  ).toEqual(keys);
  const large = 'x'.repeat(1024 * 1024);
  const bytes = expect.stringContaining('forEachInputBytesMax');
  expect(excess([large], Array(100).fill(0))).toEqual(bytes);
  expect(
    excess(
      Array.from({ length: 100 }, () => ({ $item: true })),
      [large],
    ),
  ).toEqual(bytes);
  expect(
    excess(
      Array.from({ length: 100 }, () => ({ $item: true, path: 'x' })),
      [{ x: large }],
    ),
  ).toEqual(bytes);
  expect(
    excess(
      { a: { $item: true }, b: { $index: true } },
      Array.from({ length: 10_000 }, () => ({ c: [1, 2, 3] })),
    ),
  ).toBeUndefined();
});

test('the keys of all steps of a workflow are taken from one budget', () => {
  const budget = { left: forEachInputKeysMax };
  expect(findExcess({ a: 1, b: 2 }, [], [1, 2, 3], budget)).toBeUndefined();
  expect(budget.left).toBe(forEachInputKeysMax - 6);
  budget.left = 5;
  expect(findExcess({ a: 1, b: 2 }, [], [1, 2, 3], budget)).toContain('forEachInputKeysMax');
});
