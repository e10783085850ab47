import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { createSlotGate } from './slot-gate.ts';

const never = new Promise<never>(() => {});

/** All promises have gone on by then. */
const soon = () => new Promise((resolve) => setImmediate(resolve));

/** Whether it has resolved by now. */
function watch(promise: Promise<unknown>): { isOver: () => boolean } {
  let isOver = false;
  void promise.then(() => (isOver = true));
  return { isOver: () => isOver };
}

test('who waits longest has the next slot, and who waits too long has none', async () => {
  const gate = createSlotGate(1, 0);
  expect(await gate.enter(never)).toBe(true);
  const impatient = gate.enter(sleep(5));
  const second = gate.enter(never);
  const third = gate.enter(never);
  expect(await impatient).toBe(false);
  gate.leave();
  expect(await second).toBe(true);
  expect(gate.busy()).toBe(1);
  gate.leave();
  expect(await third).toBe(true);
  gate.leave();
  expect(gate.busy()).toBe(0);
});

test('those who have begun have the next slots, in that order, and are not given up', async () => {
  const gate = createSlotGate(1, 0);
  await gate.enter(never);
  const over = Promise.withResolvers<void>();
  const [patient, first, second] = [gate.enter(never), gate.enter(over.promise), gate.enter(over.promise)];
  const saw = [patient, first, second].map(watch);
  gate.comeFirst(second);
  gate.comeFirst(first);
  over.resolve();
  gate.leave();
  await soon();
  expect(saw.map(({ isOver }) => isOver())).toEqual([false, false, true]);
  gate.giveUp();
  expect(await patient).toBe(false);
  // It does not wait any more.
  gate.comeFirst(second);
  const later = gate.enter(never);
  gate.leave();
  expect(await first).toBe(true);
  gate.leave();
  expect(await later).toBe(true);
  gate.leave();
  expect(gate.busy()).toBe(0);
});

test('a slot is kept only when it is neither taken nor kept', async () => {
  const gate = createSlotGate(2, 1);
  await gate.enter(never);
  const keep = watch(gate.keep());
  await soon();
  expect(keep.isOver()).toBe(false);
  gate.leave();
  await soon();
  expect(keep.isOver()).toBe(true);
  // Both are kept now.
  const another = watch(gate.keep());
  await soon();
  expect(another.isOver()).toBe(false);
  // What was fetched for one of them takes it: there is no more room than before.
  gate.release();
  await gate.enter(never);
  await soon();
  expect(another.isOver()).toBe(false);
  gate.leave();
  await soon();
  expect(another.isOver()).toBe(true);
});

test('a kept slot can be taken by others, and is kept again only when there is room', async () => {
  const gate = createSlotGate(2, 2);
  gate.release();
  await gate.enter(never);
  // The other deliveries of a bundle need not wait for a fetch that may bring nothing.
  expect(await gate.enter(never)).toBe(true);
  const keep = watch(gate.keep());
  gate.leave();
  await soon();
  expect(keep.isOver()).toBe(false);
  gate.leave();
  await soon();
  expect(keep.isOver()).toBe(true);
});

test('who keeps ahead need not wait for room when the line ends because somebody left', async () => {
  const gate = createSlotGate(1, 0);
  await gate.enter(never);
  const inLine = [gate.enter(sleep(5)), gate.enter(never), gate.enter(never)];
  const keep = watch(gate.keep());
  const ahead = [watch(gate.keepAhead()), watch(gate.keepAhead())];
  const kept = () => ahead.filter(({ isOver }) => isOver()).length;
  await inLine[0];
  gate.leave();
  await soon();
  expect(kept(), 'one still waits in line').toBe(0);
  gate.leave();
  await soon();
  expect(kept(), 'the last one has its slot').toBe(1);
  gate.leave();
  await soon();
  // The slot is free, and kept for what was fetched ahead.
  expect([kept(), keep.isOver(), gate.busy()]).toEqual([1, false, 0]);
  gate.release();
  const impatient = gate.enter(never);
  const late = gate.enter(sleep(5));
  await impatient;
  expect(await late).toBe(false);
  await soon();
  expect(kept(), 'a line that ends because nobody left is no reason').toBe(1);
  gate.leave();
  await soon();
  expect([kept(), keep.isOver()]).toEqual([1, true]);
  gate.release();
  gate.leave();
});

test('of two slots one is kept ahead while one still waits in line, and no second one meanwhile', async () => {
  const gate = createSlotGate(2, 0);
  await Promise.all([gate.enter(never), gate.enter(never)]);
  for (let count = 0; count < 3; count += 1) void gate.enter(never);
  const ahead = [watch(gate.keepAhead()), watch(gate.keepAhead())];
  const kept = () => ahead.filter(({ isOver }) => isOver()).length;
  gate.leave();
  await soon();
  expect(kept(), 'two still wait').toBe(0);
  gate.leave();
  await soon();
  expect(kept(), 'one still waits').toBe(1);
  gate.leave();
  await soon();
  expect(kept(), 'what is fetched has not come yet').toBe(1);
  gate.release();
  const inLine = gate.enter(never);
  gate.leave();
  await inLine;
  await soon();
  expect(kept()).toBe(2);
});

test('giving up ends all waiting, and keepOnly forgets what was kept', async () => {
  const gate = createSlotGate(1, 0);
  await gate.enter(never);
  const entering = gate.enter(never);
  const keeping = gate.keep();
  gate.giveUp();
  expect(await entering).toBe(false);
  await keeping;
  gate.leave();
  const keep = watch(gate.keep());
  await soon();
  expect(keep.isOver()).toBe(false);
  gate.keepOnly(0);
  await soon();
  expect(keep.isOver()).toBe(true);
});
