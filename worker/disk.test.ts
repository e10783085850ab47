import { expect, test } from 'vitest';
import type { DiskThreads } from '#shared/disk/disk-threads.ts';
import { createDisk } from './disk.ts';

test('directories that take long to remove leave threads to the runs that begin', async () => {
  const calls: string[] = [];
  const ends: ((value: unknown) => void)[] = [];
  const threads = {
    load: () => (name: string) => {
      calls.push(name);
      return new Promise((resolve) => ends.push(resolve));
    },
  } as unknown as DiskThreads;
  const disk = createDisk(threads);
  const removed = ['a', 'b', 'c', 'd'].map((dir) => disk.removeTree(dir));
  void disk.prepareRun({ dir: '/run', inputs: [] });
  expect(calls).toEqual(['removeTree', 'removeTree', 'prepareRun']);
  ends[0]?.(true);
  expect(await removed[0]).toBe(true);
  expect(calls).toEqual(['removeTree', 'removeTree', 'prepareRun', 'removeTree']);
  ends[1]?.(false);
  expect(await removed[1]).toBe(false);
  for (const end of ends) end(true);
  expect(await Promise.all(removed)).toEqual([true, false, true, true]);
});
