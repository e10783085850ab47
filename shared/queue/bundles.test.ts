import fc from 'fast-check';
import { expect, test } from 'vitest';
import { bundleMax, bundleSize, deliveryId, packEntries, unpackEntry } from './bundles.ts';

const delivery = fc.record({ jobId: fc.uuid({ version: 7 }), fence: fc.nat(1_000_000_000) });

test('what is packed is unpacked again, in its order, and no bundle is larger than asked', () => {
  fc.assert(
    fc.property(
      fc.array(delivery, { maxLength: 70 }),
      fc.integer({ min: 1, max: bundleMax }),
      (given, size) => {
        const entries = packEntries(given, size);
        const unpacked = entries.map(({ id, data }) => unpackEntry(id, JSON.parse(data)));
        expect(unpacked.flat()).toEqual(given);
        expect(entries).toHaveLength(Math.ceil(given.length / size));
        for (const each of unpacked) expect(each?.length).toBeLessThanOrEqual(size);
      },
    ),
  );
});

test('a delivery by itself is named after it, so that a repetition is found', () => {
  const one = { jobId: '019abc00-0000-7000-8000-000000000000', fence: 3 };
  const entries = packEntries([one], 5);
  expect(entries).toEqual([{ id: deliveryId(one), data: '{}' }]);
  expect(packEntries([one, one], 2)[0]?.id).toMatch(/^b_/);
});

const id = 'j_019abc00-0000-7000-8000-000000000000_1';
test.each([
  ['no id', undefined, {}],
  ['a number', '17', {}],
  ['a path', 'j_../../etc_1', {}],
  ['a fence that is none', 'j_019abc00-0000-7000-8000-000000000000_x', {}],
  ['a bundle without data', 'b_1', {}],
  ['an empty bundle', 'b_1', []],
  ['a bundle of text', 'b_1', id],
  ['a bundle with something else in it', 'b_1', [id, { toString: 'j' }]],
  ['a bundle in a bundle', 'b_1', [[id]]],
  ['a bundle that is too large', 'b_1', Array.from({ length: bundleMax + 1 }, () => id)],
])('%s is not one of ours', (_what, given, data) => {
  expect(unpackEntry(given, data)).toBeUndefined();
});

test('jobs that take long are delivered one by one; the quicker they are, the more are in a bundle', () => {
  expect([0, 10, 19, 20, 100, 1_000_000].map(bundleSize)).toEqual([1, 1, 1, 2, 10, bundleMax]);
});
