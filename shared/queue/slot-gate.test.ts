import { expect, test } from 'vitest';
import { createSlotGate } from './slot-gate.ts';

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
  expect(await gate.enter(0)).toBe(true);
  const impatient = gate.enter(5);
  const second = gate.enter(10_000);
  const third = gate.enter(10_000);
  expect(await impatient).toBe(false);
  gate.leave();
  expect(await second).toBe(true);
  expect(gate.busy()).toBe(1);
  gate.leave();
  expect(await third).toBe(true);
  gate.leave();
  expect(gate.busy()).toBe(0);
});

test('a slot is kept only when it is neither taken nor kept', async () => {
  const gate = createSlotGate(2, 1);
  await gate.enter(0);
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
  await gate.enter(0);
  await soon();
  expect(another.isOver()).toBe(false);
  gate.leave();
  await soon();
  expect(another.isOver()).toBe(true);
});

test('a kept slot can be taken by others, and is kept again only when there is room', async () => {
  const gate = createSlotGate(2, 2);
  gate.release();
  await gate.enter(0);
  // The other deliveries of a bundle need not wait for a fetch that may bring nothing.
  expect(await gate.enter(0)).toBe(true);
  const keep = watch(gate.keep());
  gate.leave();
  await soon();
  expect(keep.isOver()).toBe(false);
  gate.leave();
  await soon();
  expect(keep.isOver()).toBe(true);
});

test('giving up ends all waiting, and keepOnly forgets what was kept', async () => {
  const gate = createSlotGate(1, 0);
  await gate.enter(0);
  const entering = gate.enter(10_000);
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
