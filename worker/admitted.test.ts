import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { createAdmitted } from './admitted.ts';

test('a slot counts from when it is given until its run has ended', async () => {
  const admitted = createAdmitted();
  const [slot, run] = [Promise.withResolvers<boolean>(), Promise.withResolvers<void>()];
  const ended = admitted.during(slot.promise, () => run.promise);
  await turn();
  expect(admitted.isBusy(), 'it stands in line').toBe(false);
  slot.resolve(true);
  await turn();
  expect(admitted.isBusy()).toBe(true);
  run.resolve();
  await ended;
  await turn();
  expect(admitted.isBusy()).toBe(false);
});

test('what has its slot counts at once, and what is refused one never does', async () => {
  const admitted = createAdmitted();
  const run = Promise.withResolvers<void>();
  const ended = admitted.during(true, () => run.promise);
  expect(admitted.isBusy()).toBe(true);
  run.resolve();
  await ended;
  await admitted.during(Promise.resolve(false), async () => expect(admitted.isBusy()).toBe(false));
  await turn();
  expect(admitted.isBusy()).toBe(false);
});

test('a failure in line is told at once, however far away the slot is', async () => {
  const admitted = createAdmitted();
  const slot = Promise.withResolvers<boolean>();
  const claim = () => Promise.reject(new Error('the claim failed'));
  await expect(admitted.during(slot.promise, claim)).rejects.toThrow('the claim failed');
  slot.resolve(true);
  await turn();
  expect(admitted.isBusy()).toBe(false);
});
