import { expect, test } from 'vitest';
import { createSpareDirs } from './spare-dirs.ts';

test('an emptied directory is the next one of its tenant, and of no other', async () => {
  const { spares } = start();
  expect(spares.take('a')).toBeUndefined();
  expect(await spares.keep('/runs/1', 'a')).toBe(true);
  expect(spares.take('b')).toBeUndefined();
  expect(spares.take('a')).toBe('/runs/spare-1');
  expect(spares.take('a')).toBeUndefined();
});

test('one that cannot be emptied is not kept', async () => {
  const { spares } = start({ isEmptied: false });
  expect(await spares.keep('/runs/1', 'a')).toBe(false);
  expect(spares.take('a')).toBeUndefined();
});

test('some are kept; the oldest one is removed for one more', async () => {
  const { spares, removed } = start();
  for (let run = 1; run <= 34; run += 1) await spares.keep(`/runs/${run}`, run <= 2 ? 'a' : 'b');
  expect(removed).toEqual(['/runs/spare-1', '/runs/spare-2']);
  expect(spares.take('a')).toBeUndefined();
  expect(spares.take('b')).toBe('/runs/spare-34');
});

function start({ isEmptied = true } = {}) {
  const removed: string[] = [];
  const disk = {
    emptyTree: async () => isEmptied,
    removeTree: async (path: string) => removed.push(path) > 0,
  };
  return { spares: createSpareDirs({ disk, dir: '/runs' }), removed };
}
