import { expect, test } from 'vitest';
import { jobStates } from './job.ts';
import { isHeld, toUniqueKey, type Holder } from './unique-key.ts';

test.each([
  [{ key: 'k' }, { until: 'finished', ttlMs: null }],
  [
    { key: 'k', until: 'started' as const },
    { until: 'started', ttlMs: null },
  ],
  [
    { key: 'k', until: 'finished' as const, ttlMs: 5 },
    { until: 'finished', ttlMs: 5 },
  ],
  [
    { key: 'k', ttlMs: 5 },
    { until: 'expired', ttlMs: 5 },
  ],
  [
    { key: 'k', mode: 'debounce' as const, delayMs: 5 },
    { until: 'started', ttlMs: null, debounce: { delayMs: 5, maxWaitMs: 50 } },
  ],
  [
    { key: 'k', mode: 'debounce' as const, delayMs: 5, maxWaitMs: 2 },
    { debounce: { delayMs: 5, maxWaitMs: 5 } },
  ],
])('%j asks for %j', (option, expected) => expect(toUniqueKey(option)).toMatchObject(expected));

test('a key is held as long as its job lives, or waits, or time lasts', () => {
  const heldIn = (until: Holder['until'], hasStarted: boolean) =>
    jobStates.filter((state) => isHeld({ until, hasStarted, state, isExpired: false }));
  expect(heldIn('finished', true)).toEqual(['scheduled', 'blocked', 'queued', 'active', 'retrying']);
  expect(heldIn('started', false)).toEqual(['scheduled', 'blocked', 'queued']);
  expect(heldIn('started', true)).toEqual([]);
  expect(heldIn('expired', true)).toEqual(jobStates);
  for (const state of jobStates)
    expect(isHeld({ until: 'finished', hasStarted: false, state, isExpired: true })).toBe(false);
  expect(isHeld(undefined)).toBe(false);
});
