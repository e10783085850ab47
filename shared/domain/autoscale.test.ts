import { expect, test } from 'vitest';
import { desiredWorkers } from './autoscale.ts';

const queue = { backlog: 0, busy: 0, isPaused: false, jobsPerWorker: 4 };

test('an empty queue wants no worker, and every started share of jobs wants one', () => {
  expect(desiredWorkers(queue)).toBe(0);
  expect(desiredWorkers({ ...queue, backlog: 1 })).toBe(1);
  expect(desiredWorkers({ ...queue, backlog: 4 })).toBe(1);
  expect(desiredWorkers({ ...queue, backlog: 4, busy: 1 })).toBe(2);
});

test('a paused queue wants workers for what runs only', () => {
  expect(desiredWorkers({ ...queue, backlog: 1_000, busy: 5, isPaused: true })).toBe(2);
});

test('where no worker says how many slots it has, each takes one job', () => {
  expect(desiredWorkers({ ...queue, backlog: 3, jobsPerWorker: 0 })).toBe(3);
});
