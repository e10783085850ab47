import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { AppError } from '#shared/errors.ts';
import { createQuota, quotaShare, type Quota } from './quota.ts';

/** A record that takes a moment to read and to write. */
function setup(max: number) {
  let stored = 0;
  let counts = 0;
  const count = async () => {
    counts += 1;
    const seen = stored;
    await sleep(1);
    return seen;
  };
  const create = () => createQuota({ max, count, refuse: () => new AppError('rate-limited', 'full') });
  const store = async (quota: Quota, amount = 1): Promise<boolean> => {
    try {
      const done = await quota.take('a', amount);
      await sleep(Math.random() * 5);
      stored += amount;
      done();
      return true;
    } catch (err) {
      expect(err).toBeInstanceOf(AppError);
      return false;
    }
  };
  return { create, store, stored: () => stored, counts: () => counts, free: () => (stored = 0) };
}

test('one process takes exactly what the quota allows, however many requests come at once', async () => {
  const { create, store, stored } = setup(100);
  const quota = create();
  const answers = await Promise.all(Array.from({ length: 300 }, () => store(quota)));
  expect(answers.filter(Boolean)).toHaveLength(100);
  expect(stored()).toBe(100);
});

test('several processes pass it by a sixteenth for each further one at most', async () => {
  const max = 160;
  const { create, store, stored } = setup(max);
  const quotas = [create(), create(), create(), create()];
  await Promise.all(Array.from({ length: 1_000 }, (_, n) => store(quotas[n % 4] ?? create())));
  expect(stored()).toBeGreaterThanOrEqual(max);
  expect(stored()).toBeLessThanOrEqual(max + (3 * max) / quotaShare);
});

test('what is larger than a share fits as long as there is room for it, and no further', async () => {
  const { create, store, stored } = setup(100);
  const quota = create();
  const answers = await Promise.all(Array.from({ length: 5 }, () => store(quota, 40)));
  expect(answers.filter(Boolean)).toHaveLength(2);
  expect(stored()).toBe(80);
  expect(await store(quota, 20)).toBe(true);
  expect(await store(quota, 1)).toBe(false);
});

test('when there is room again requests get through', async () => {
  const { create, store, free } = setup(1);
  const quota = create();
  expect([await store(quota), await store(quota)]).toEqual([true, false]);
  free();
  await expect.poll(() => store(quota), { timeout: 5_000 }).toBe(true);
});

test('without a quota nothing is counted', async () => {
  const { create, store, counts } = setup(0);
  expect(await store(create())).toBe(true);
  expect(counts()).toBe(0);
});
