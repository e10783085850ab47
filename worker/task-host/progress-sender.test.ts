import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createProgressSender } from './progress-sender.ts';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }));
afterEach(() => void vi.useRealTimers());

test('the first two reports are sent at once, then the newest ten times a second', () => {
  const sent: number[] = [];
  const sender = createProgressSender((percent) => sent.push(percent));
  for (let percent = 0; percent < 50; percent += 1) sender.report(percent, undefined);
  expect(sent).toEqual([0, 1]);
  vi.advanceTimersByTime(100);
  expect(sent).toEqual([0, 1, 49]);
  for (let percent = 50; percent < 90; percent += 1) {
    sender.report(percent, undefined);
    vi.advanceTimersByTime(50);
  }
  // Two seconds.
  expect(sent.length).toBeGreaterThan(20);
  expect(sent.length).toBeLessThan(26);
});

test('a handler that gives no timer its turn is heard all the same', () => {
  const sent: number[] = [];
  const sender = createProgressSender((percent) => sent.push(percent));
  const startedMs = performance.now();
  const now = vi.spyOn(performance, 'now');
  for (let percent = 0; percent < 6; percent += 1) {
    now.mockReturnValue(startedMs + percent * 60);
    sender.report(percent, undefined);
  }
  now.mockRestore();
  expect(sent).toEqual([0, 1, 2, 4, 5]);
});

test('what is waiting at the end is sent, and nothing after it', () => {
  const sent: [number, string | undefined][] = [];
  const sender = createProgressSender((...report) => sent.push(report));
  for (const text of ['a', 'b', 'c', 'd']) sender.report(1, text);
  sender.close();
  sender.report(2, 'too late');
  vi.advanceTimersByTime(1_000);
  expect(sent.map(([, text]) => text)).toEqual(['a', 'b', 'd']);
});
