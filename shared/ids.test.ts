import { expect, test } from 'vitest';
import { isUuid, uuidAfter, uuidTimeMs, uuidv7, uuidv7WithRoom } from './ids.ts';

test('a UUIDv7 says when it was made, its version and its variant, and is like no other', () => {
  const ids = Array.from({ length: 2_000 }, (_, n) => uuidv7(1_700_000_000_000 + (n % 3)));
  expect(new Set(ids).size).toBe(ids.length);
  // RFC 9562, 5.7: version 7, variant 10.
  for (const id of ids)
    expect(id).toMatch(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
  expect(ids.map(uuidTimeMs)).toEqual(ids.map((_, n) => 1_700_000_000_000 + (n % 3)));
  expect(uuidTimeMs(uuidv7(1))).toBe(1);
});

test('every random digit takes every value', () => {
  const ids = Array.from({ length: 2_000 }, () => uuidv7());
  const digits = [20, 21, 22, ...Array.from({ length: 12 }, (_, n) => 24 + n)];
  for (const at of digits) expect(new Set(ids.map((id) => id[at])).size).toBe(16);
  expect(new Set(ids.map((id) => id[19]))).toEqual(new Set(['8', '9', 'a', 'b']));
});

test('ids that are made in the same millisecond are in the order in which they were made', () => {
  // Other ids of that millisecond may have been made, and used up the count, before these.
  uuidv7(1_700_000_000_000);
  const ids = Array.from({ length: 2_000 }, () => uuidv7(1_700_000_000_001));
  expect(ids.toSorted()).toEqual(ids);
});

test('when more are made in a millisecond than can be counted they are still ids, and like no other', () => {
  const ids = Array.from({ length: 10_000 }, () => uuidv7(1_700_000_000_002));
  expect(ids.every(isUuid)).toBe(true);
  expect(new Set(ids).size).toBe(ids.length);
  expect(new Set(ids.map(uuidTimeMs))).toEqual(new Set([1_700_000_000_002]));
});

test('a million ids after one with room are valid and in order', () => {
  const first = uuidv7WithRoom();
  const later = [1, 2, 999_999].map((n) => uuidAfter(first, n));
  expect([first, ...later].every(isUuid)).toBe(true);
  expect([first, ...later].toSorted()).toEqual([first, ...later]);
});
