import { constants, PerformanceObserver, type PerformanceEntry } from 'node:perf_hooks';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { waitFor } from '#test/support/wait-for.ts';
import { notePassed } from './release-buffers.ts';

const MiB = 1024 * 1024;

test('buffers that have passed are freed a few MiB at a time, and without looking at the whole heap', async () => {
  const collections: number[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries() as (PerformanceEntry & { detail: { kind: number } })[])
      collections.push(entry.detail.kind);
  });
  observer.observe({ entryTypes: ['gc'] });
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  for (let passed = 0; passed < 64; passed += 1) {
    notePassed(Buffer.allocUnsafeSlow(MiB).fill(passed).length);
    most = Math.max(most, process.memoryUsage().arrayBuffers - before);
    // What has been found to be garbage is freed by another thread.
    await new Promise((resolve) => setImmediate(resolve));
  }
  const count = (wanted: number) => collections.filter((kind) => kind === wanted).length;
  await waitFor(() => (count(constants.NODE_PERFORMANCE_GC_MINOR) >= 8 ? true : undefined), {
    what: 'the collections',
  });
  // One that had begun may end now.
  expect(count(constants.NODE_PERFORMANCE_GC_MAJOR)).toBeLessThanOrEqual(2);
  observer.disconnect();
  expect(most).toBeLessThan(24 * MiB);
});

test('it makes no global of the collector', () => {
  expect('gc' in globalThis).toBe(false);
  expect(runInNewContext('typeof gc')).toBe('undefined');
});
