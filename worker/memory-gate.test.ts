import { expect, onTestFinished, test, vi } from 'vitest';
import { createLogger } from '#shared/log.ts';
import { readAvailableMemory } from './available-memory.ts';
import { createMemoryGate } from './memory-gate.ts';
import { waitFor } from '#test/support/wait-for.ts';

function setup(start: { available: number; isBusy: boolean; reserve?: number; isGivenUp?: boolean }) {
  const state = { ...start, looks: 0 };
  const entered: number[] = [];
  const gate = createMemoryGate({
    reserveBytes: start.reserve ?? 100,
    availableBytes: () => {
      state.looks += 1;
      return state.available;
    },
    isBusy: () => state.isBusy,
    lookEveryMs: 1,
    log: createLogger({ service: 'test', level: 'silent' }),
  });
  const enter = async (id: number): Promise<void> => {
    if (await gate.enter(() => state.isGivenUp === true)) entered.push(id);
  };
  return { state, entered, enter, isShort: gate.isShort };
}

/** The gate has looked at the memory three more times: had it let somebody through, that would show by now. */
async function looked(state: { readonly looks: number }): Promise<void> {
  const enough = state.looks + 3;
  await waitFor(async () => (state.looks >= enough ? true : undefined), { what: 'the gate to look again' });
}

test('a job waits while memory is short and others run, and goes on when they have given it back', async () => {
  const { state, entered, enter, isShort } = setup({ available: 99, isBusy: true });
  expect(isShort()).toBe(false);
  const waiting = enter(1);
  await looked(state);
  expect([entered, isShort()]).toEqual([[], true]);
  state.available = 100;
  await waiting;
  expect([entered, isShort()]).toEqual([[1], false]);
});

test('where nothing runs a job goes on, however little memory there is', async () => {
  const { entered, enter } = setup({ available: 1, isBusy: false });
  await enter(1);
  expect(entered).toEqual([1]);
});

test('while memory is short jobs go on one at a time, each when those before it have shown what they take', async () => {
  const { state, entered, enter } = setup({ available: 1, isBusy: false });
  const first = enter(1).then(() => {
    state.isBusy = true;
  });
  const second = enter(2);
  await first;
  await looked(state);
  expect(entered).toEqual([1]);
  state.isBusy = false;
  await second;
});

test('whoever gives up does not wait for memory, and is not let in', async () => {
  const { state, entered, enter } = setup({ available: 1, isBusy: true });
  const waiting = enter(1);
  state.isGivenUp = true;
  await waiting;
  expect(entered).toEqual([]);
});

test('of many that have given up none waits for those before it', async () => {
  const { state, entered, enter } = setup({ available: 1, isBusy: true });
  const waiting = Array.from({ length: 50 }, (_, id) => enter(id));
  await looked(state);
  state.isGivenUp = true;
  const before = state.looks;
  await Promise.all(waiting);
  expect([entered, state.looks - before]).toEqual([[], 0]);
});

test('where there is plenty one look is enough for a while, and never where there is not', async () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  onTestFinished(() => void vi.useRealTimers());
  const { state, enter } = setup({ available: 200, isBusy: true });
  await enter(1);
  await enter(2);
  expect(state.looks).toBe(1);
  vi.advanceTimersByTime(100);
  await enter(3);
  expect(state.looks).toBe(2);
  const tight = setup({ available: 199, isBusy: true });
  await tight.enter(1);
  await tight.enter(2);
  expect(tight.state.looks).toBe(2);
});

test('a reserve of 0 lets everything through', async () => {
  const { entered, enter } = setup({ available: 0, isBusy: true, reserve: 0 });
  await enter(1);
  expect(entered).toEqual([1]);
});

test('the container decides where it has less than the machine, and cached files count as free', () => {
  const files: Record<string, string> = {
    '/proc/meminfo': 'MemTotal:       8000 kB\nMemAvailable:   4000 kB\n',
    '/sys/fs/cgroup/memory.max': '2000000\n',
    '/sys/fs/cgroup/memory.current': '1900000\n',
    '/sys/fs/cgroup/memory.stat': 'anon 100\ninactive_file 400000\n',
  };
  const read = (path: string): string => {
    const text = files[path];
    if (text === undefined) throw new Error('ENOENT');
    return text;
  };
  expect(readAvailableMemory(read)).toBe(500_000);
  files['/sys/fs/cgroup/memory.max'] = 'max\n';
  expect(readAvailableMemory(read)).toBe(4_096_000);
  delete files['/sys/fs/cgroup/memory.max'];
  expect(readAvailableMemory(read)).toBe(4_096_000);
});
