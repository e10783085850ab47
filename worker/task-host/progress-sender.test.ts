import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createProgressSender } from './progress-sender.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('the first report is sent at once, then the newest ten times a second', () => {
  const sent: number[] = [];
  const sender = createProgressSender((percent) => sent.push(percent));
  for (let percent = 0; percent < 50; percent += 1) sender.report(percent, undefined);
  expect(sent).toEqual([0]);
  vi.advanceTimersByTime(100);
  expect(sent).toEqual([0, 49]);
  vi.advanceTimersByTime(1_000);
  expect(sent).toEqual([0, 49]);
  sender.report(60, undefined);
  expect(sent).toEqual([0, 49, 60]);
});

test('a handler that gives no timer its turn is heard all the same', () => {
  const sent: number[] = [];
  const sender = createProgressSender((percent) => sent.push(percent));
  for (let percent = 0; percent < 4; percent += 1) {
    sender.report(percent, undefined);
    // As time goes by while the thread is busy.
    vi.setSystemTime(Date.now() + 60);
    vi.spyOn(performance, 'now').mockReturnValue(percent * 60 + 60);
  }
  expect(sent).toEqual([0, 2]);
  vi.restoreAllMocks();
});

test.for([true, false])('what is waiting at the end is sent once, or not at all (%s)', (isSent) => {
  const sent: [number, string | undefined][] = [];
  const sender = createProgressSender((...report) => sent.push(report));
  sender.report(1, 'a');
  sender.report(2, 'b');
  sender.close({ isSent });
  sender.report(3, 'too late');
  vi.advanceTimersByTime(1_000);
  expect(sent).toEqual(
    isSent
      ? [
          [1, 'a'],
          [2, 'b'],
        ]
      : [[1, 'a']],
  );
});
