import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createEndGroups, endGroupMax } from './end-groups.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** Ends, by what they are called, in the order in which they may be written. */
function setup() {
  const groups = createEndGroups();
  const written: string[] = [];
  const later = () => {
    let settle!: () => void;
    const promise = new Promise<void>((resolve) => (settle = resolve));
    return { promise, settle };
  };
  return {
    written,
    end: (name: string, queue = 'q') =>
      void groups.join(queue, { canWait: true }).then(() => written.push(name)),
    fail: (name: string) => void groups.join('q', { canWait: false }).then(() => written.push(name)),
    /** Returns what gives it a slot, or none. */
    line(queue = 'q', hasSlot = true) {
      const { promise, settle } = later();
      void groups.standInLine(
        queue,
        promise.then(() => hasSlot),
      );
      return settle;
    },
    /** Returns what ends it. */
    run(queue = 'q') {
      const { promise, settle } = later();
      void groups.execute(queue, () => promise);
      return settle;
    },
    pass: (ms = 0) => vi.advanceTimersByTimeAsync(ms),
  };
}

test('where nobody stands in line an end is written at once, also when other runs go on', async () => {
  const { end, run, written, pass } = setup();
  end('first');
  await pass();
  expect(written).toEqual(['first']);
  run();
  end('second');
  await pass();
  expect(written).toEqual(['first', 'second']);
});

test('while jobs stand in line ends are held, and go together when nothing is left to wait for', async () => {
  const { end, line, written, pass } = setup();
  const giveSlot = line();
  end('first');
  end('second');
  await pass(99);
  expect(written).toEqual([]);
  giveSlot();
  await pass();
  end('third');
  await pass();
  expect(written).toEqual(['first', 'second', 'third']);
});

test('no end is held for longer than 100 ms', async () => {
  const { end, line, written, pass } = setup();
  line();
  end('first');
  await pass(60);
  end('second');
  await pass(40);
  expect(written).toEqual(['first', 'second']);
  end('third');
  await pass(99);
  expect(written).toHaveLength(2);
  await pass(1);
  expect(written).toHaveLength(3);
});

test('a full group does not wait', async () => {
  const { end, line, written, pass } = setup();
  line();
  for (let count = 1; count < endGroupMax; count += 1) end(String(count));
  await pass();
  expect(written).toEqual([]);
  end('last');
  await pass();
  expect(written).toHaveLength(endGroupMax);
  // The time of the group that went is not that of the next one.
  await pass(50);
  end('of the next group');
  await pass(99);
  expect(written).toHaveLength(endGroupMax);
});

test('just after a line the ends of the others are waited for, and not when it is a while ago', async () => {
  const { end, line, run, written, pass } = setup();
  line()();
  const endRun = run();
  await pass();
  end('just after');
  await pass(99);
  expect(written).toEqual([]);
  await pass(1);
  expect(written).toEqual(['just after']);
  end('a while after');
  await pass();
  expect(written).toHaveLength(2);
  line()();
  endRun();
  await pass();
  end('the last one');
  await pass();
  expect(written).toHaveLength(3);
});

test('an end that cannot wait is written at once, and is not waited for', async () => {
  const { end, fail, line, written, pass } = setup();
  const giveSlot = line('q', false);
  end('held');
  await pass();
  fail('a failure');
  await pass();
  expect(written, 'one stands in line').toEqual(['a failure']);
  giveSlot();
  await pass();
  fail('the one that had no slot');
  await pass();
  expect(written).toEqual(['a failure', 'held', 'the one that had no slot']);
});

test('one queue does not wait for another', async () => {
  const { end, line, written, pass } = setup();
  line('busy');
  end('held', 'busy');
  end('free', 'calm');
  await pass();
  expect(written).toEqual(['free']);
});
