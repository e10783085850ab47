import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { fileRef } from '../tasks/define-task.ts';
import { findMisfit, isNullable, isOptionalKey, shapesAt, shapesOf } from './schema-fit.ts';

const source = (type: z.ZodType) => shapesOf(z.toJSONSchema(type, { io: 'output', unrepresentable: 'any' }));
const target = (type: z.ZodType) => shapesOf(z.toJSONSchema(type, { io: 'input', unrepresentable: 'any' }));
const misfit = (from: z.ZodType, to: z.ZodType) => findMisfit(source(from), target(to));

describe('findMisfit', () => {
  test.each<[string, z.ZodType, z.ZodType]>([
    ['a file', fileRef(), fileRef()],
    ['an integer for a number', z.int(), z.number()],
    ['a number for an integer, which it may be', z.number(), z.int()],
    ['what may be null', z.string().nullable(), z.string()],
    ['one of a union', z.union([z.string(), z.number()]), z.number()],
    ['anything for something', z.unknown(), z.array(z.string())],
    ['something for anything', z.object({ a: z.string() }), z.any()],
    ['a list of files', z.array(fileRef()), z.array(fileRef()).optional()],
    [
      'an object with more than a loose one asks for',
      z.object({ a: z.string(), b: z.int() }),
      z.object({ a: z.string() }),
    ],
    ['values of which one is allowed', z.enum(['a', 'b']), z.enum(['b', 'c'])],
    ['a record', z.record(z.string(), z.int()), z.object({ a: z.int().optional() })],
  ])('%s fits', (_name, from, to) => {
    expect(misfit(from, to)).toBeUndefined();
  });

  test.each<[string, z.ZodType, z.ZodType, string]>([
    ['a file for a text', fileRef(), z.string(), 'a file is given where a string is needed'],
    ['a text for a file', z.string(), fileRef(), 'a string is given where a file is needed'],
    ['a number for a text', z.int(), z.string(), 'a number is given where a string is needed'],
    ['a list for one', z.array(fileRef()), fileRef(), 'a array is given where a file is needed'],
    [
      'wrong items',
      z.array(z.string()),
      z.array(z.int()),
      'of the items, a string is given where a number is needed',
    ],
    ['a key that is needed', z.strictObject({}), z.object({ a: z.int() }), 'the key "a" is needed'],
    ['a key that is unknown', z.object({ a: z.int() }), z.strictObject({}), 'the key "a" is not known there'],
    [
      'values of which none is allowed',
      z.enum(['a']),
      z.enum(['b']),
      'one of ["a"] is given where one of ["b"] is needed',
    ],
  ])('%s does not', (_name, from, to, problem) => {
    expect(misfit(from, to)).toBe(problem);
  });

  test('whatever a target takes of what a source may be, it is not refused, unless it is only because something is empty', () => {
    const leaf = fc.constantFrom<() => z.ZodType>(
      () => z.string(),
      () => z.number(),
      () => z.int(),
      () => z.boolean(),
      () => z.null(),
      () => z.unknown(),
      () => z.enum(['a', 'b']),
      () => z.literal(1),
    );
    const { type } = fc.letrec<{ type: () => z.ZodType }>((tie) => ({
      type: fc.oneof(
        { maxDepth: 3 },
        leaf,
        tie('type').map((item) => () => z.array(item())),
        fc.tuple(tie('type'), tie('type')).map(
          ([a, b]) =>
            () =>
              z.union([a(), b()]),
        ),
        fc.tuple(tie('type'), fc.boolean()).map(
          ([a, isStrict]) =>
            () =>
              isStrict ? z.strictObject({ a: a() }) : z.object({ a: a() }),
        ),
        tie('type').map((a) => () => z.object({ a: a().optional() })),
      ),
    }));
    const values = fc.sample(
      fc.oneof(
        fc.jsonValue({ maxDepth: 3 }),
        fc.constantFrom('a', 1, { a: 'a' }, { a: 1 }, ['a'], [1], [[1]], { a: [1] }, [{ a: 1 }], {
          a: { a: 1 },
        }),
      ),
      300,
    );
    // A list of texts meets a list of numbers only when it is empty: that is refused.
    const isFull = (value: unknown): boolean =>
      typeof value !== 'object' ||
      value === null ||
      (Array.isArray(value)
        ? value.length > 0 && value.every(isFull)
        : 'a' in value && Object.values(value).every(isFull));
    const full = values.filter(isFull);
    fc.assert(
      fc.property(type, type, (makeFrom, makeTo) => {
        const [from, to] = [makeFrom(), makeTo()];
        const fits = full.some((value) => from.safeParse(value).success && to.safeParse(value).success);
        if (fits) expect(misfit(from, to)).toBeUndefined();
      }),
      { numRuns: 300 },
    );
  });
});

test('paths lead through objects, lists and unions, and end where nothing can be', () => {
  const type = source(
    z.object({
      list: z.array(z.object({ n: z.int() })),
      any: z.unknown(),
      one: z.union([z.object({ a: z.int() }), z.object({ b: z.int() })]),
    }),
  );
  const found = (path: string): boolean => shapesAt(type, path.split('.')).length > 0;
  expect(['list.0.n', 'any.x.y', 'one.a', 'one.b'].map(found)).toEqual([true, true, true, true]);
  expect(['list.n', 'list.0.m', 'one.c', 'x'].map(found)).toEqual([false, false, false, false]);
});

test('what may be null, and what may be left out', () => {
  const type = target(
    z.object({ a: z.int().nullable(), b: z.int().optional(), c: z.int().default(1), d: z.int() }),
  );
  expect(['a', 'b', 'c', 'd'].map((key) => isNullable(shapesAt(type, [key])))).toEqual([
    true,
    false,
    false,
    false,
  ]);
  expect(['a', 'b', 'c', 'd'].map((key) => isOptionalKey(type, key))).toEqual([false, true, true, false]);
});
