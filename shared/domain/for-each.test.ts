import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createItemInput, findPlaces } from './for-each.ts';

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
