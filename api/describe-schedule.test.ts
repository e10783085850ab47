import { expect, test } from 'vitest';
import { describeTiming } from './describe-schedule.ts';

test.each([
  ['30 2 * * *', 'Europe/Berlin', 'At 02:30 (Europe/Berlin)'],
  ['0 9 * * MON-FRI', 'UTC', 'At 09:00, Monday through Friday (UTC)'],
  ['*/15 * * * * *', 'UTC', 'Every 15 seconds (UTC)'],
  ['0 0 L * *', 'UTC', 'At 00:00, on the last day of the month (UTC)'],
  ['0 12 * * FRI#2', 'UTC', 'At 12:00, on the second Friday of the month (UTC)'],
  // There are no words for this one.
  ['0 0 29 2 +MON', 'UTC', 'When "0 0 29 2 +MON" fits (UTC)'],
])('%s in %s', (cron, timezone, words) => {
  expect(describeTiming({ type: 'cron', cron, timezone })).toBe(words);
});

test.each([
  [1_000, 'Every 1 second'],
  [300_000, 'Every 5 minutes'],
  [5_400_500, 'Every 1 hour 30 minutes 500 milliseconds'],
  [7 * 86_400_000, 'Every 7 days'],
])('%i ms', (everyMs, words) => {
  expect(describeTiming({ type: 'every', everyMs, anchor: new Date(0) })).toBe(words);
});
