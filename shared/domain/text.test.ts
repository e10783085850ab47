import fc from 'fast-check';
import { expect, test } from 'vitest';
import { canonicalJson, findJsonProblem } from './json-limits.ts';
import { cleanText, findUnstorable, isStorable } from './text.ts';

const limits = { depthMax: 4, keysMax: 10 };

test('what Postgres cannot store is found with its place', () => {
  expect(findUnstorable({ a: [{ 'b/c': 'x\0' }] })).toBe('/a/0/b~1c');
  expect(findUnstorable({ a: '\ud800' })).toBe('/a');
  expect(findUnstorable({ 'k\0': 1 })).toBe('/k\0');
  expect(findUnstorable({ a: ['ä', '😀', null, 1] })).toBeUndefined();
});

test('cleaned text is storable and short, whatever it was', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary', maxLength: 200 }),
      fc.integer({ min: 1, max: 50 }),
      (text, lengthMax) => {
        const clean = cleanText(text, lengthMax);
        expect(isStorable(clean)).toBe(true);
        expect(clean.length).toBeLessThanOrEqual(lengthMax);
        expect(clean).not.toMatch(/(?![\n\t])\p{Cc}/u);
      },
    ),
  );
});

test('documents that are too deep or have too many keys are named, without recursing into them', () => {
  expect(findJsonProblem({ a: { b: { c: { d: {} } } } }, limits)).toEqual({
    type: 'too-deep',
    pointer: '/a/b/c/d',
  });
  expect(
    findJsonProblem(
      Array.from({ length: 11 }, () => 0),
      limits,
    ),
  ).toEqual({ type: 'too-many-keys', pointer: '/10' });
  const deep: unknown = JSON.parse('['.repeat(100_000) + ']'.repeat(100_000));
  expect(findJsonProblem(deep, limits)?.type).toBe('too-deep');
});

test('equal documents have equal canonical text, whatever the order of their keys', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (document) => {
      const reversed = Object.fromEntries(Object.entries(document).toReversed());
      expect(canonicalJson(reversed)).toBe(canonicalJson(document));
    }),
  );
  expect(canonicalJson({ b: [2, 1], a: 1 })).toBe('{"a":1,"b":[2,1]}');
});
