import { expect, test } from 'vitest';
import { createGroupCommit } from './group-commit.ts';

function sqlError(code: string): Error {
  return Object.assign(new Error(`SQLSTATE ${code}`), { code });
}

const noRecovery = (_item: unknown, err: unknown) => Promise.reject(err);

test('what arrives while a flush is in flight goes together with the next one', async () => {
  const flushed: number[][] = [];
  let release = () => {};
  const group = createGroupCommit<number, number>({
    recover: noRecovery,
    async flush(items) {
      flushed.push([...items]);
      if (flushed.length === 1) await new Promise<void>((resolve) => (release = resolve));
      return items.map((item) => item * 10);
    },
  });
  const first = group.add(1);
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  const others = [group.add(2), group.add(3), group.add(4)];
  release();
  expect(await Promise.all([first, ...others])).toEqual([10, 20, 30, 40]);
  expect(flushed).toEqual([[1], [2, 3, 4]]);
});

test('a second flush starts when as many wait as the first one carries', async () => {
  const flushed: number[][] = [];
  const releases: (() => void)[] = [];
  const group = createGroupCommit<number, number>({
    recover: noRecovery,
    flightsMax: 2,
    async flush(items) {
      flushed.push([...items]);
      await new Promise<void>((resolve) => releases.push(resolve));
      return [...items];
    },
  });
  const turn = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  const answers = [group.add(1), group.add(2)];
  await turn();
  answers.push(group.add(3));
  await turn();
  expect(flushed).toEqual([[1, 2]]);
  answers.push(group.add(4));
  await turn();
  expect(flushed).toEqual([
    [1, 2],
    [3, 4],
  ]);
  answers.push(...[5, 6, 7, 8].map((item) => group.add(item)));
  await turn();
  expect(flushed).toHaveLength(2);
  let isIdle = false;
  const idle = group.idle().then(() => (isIdle = true));
  for (const release of releases) release();
  await turn();
  expect([flushed.slice(2), isIdle]).toEqual([[[5, 6, 7, 8]], false]);
  releases.at(-1)?.();
  expect(await Promise.all(answers)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  await idle;
});

test('items that come back together are shared out among the flushes', async () => {
  const flushed: number[] = [];
  const group = createGroupCommit<number, number>({
    recover: noRecovery,
    flightsMax: 2,
    async flush(items) {
      flushed.push(items.length);
      await new Promise<void>((resolve) => setImmediate(resolve));
      return [...items];
    },
  });
  const add20 = () => Promise.all(Array.from({ length: 20 }, (_, item) => group.add(item)));
  await add20();
  // How many there would be was not known; now it is.
  expect(flushed.splice(0)).toEqual([20]);
  await add20();
  expect(flushed.splice(0)).toEqual([10, 10]);
  // Fewer ask by and by, and nobody expects many any more.
  for (let count = 0; count < 50; count += 1) await group.add(count);
  flushed.length = 0;
  await add20();
  expect(flushed).toEqual([20]);
});

test('after a rush a flush that stands still holds up nobody but its own', async () => {
  const group = createGroupCommit<number, number>({
    recover: noRecovery,
    flightsMax: 2,
    flush: (items) => (items.includes(-1) ? new Promise(() => {}) : Promise.resolve([...items])),
  });
  await Promise.all(Array.from({ length: 300 }, (_, item) => group.add(item)));
  void group.add(-1);
  await new Promise((resolve) => setImmediate(resolve));
  expect(await Promise.all([1, 2, 3].map((item) => group.add(item)))).toEqual([1, 2, 3]);
});

test('one bad row fails alone, and every other row of its group is written', async () => {
  const written: number[] = [];
  const group = createGroupCommit<number, string>({
    recover: noRecovery,
    flush(items) {
      if (items.includes(13)) return Promise.reject(sqlError('22P05'));
      written.push(...items);
      return Promise.resolve(items.map(String));
    },
  });
  const results = await Promise.allSettled([11, 12, 13, 14, 15].map((item) => group.add(item)));
  expect(results.map((result) => result.status)).toEqual([
    'fulfilled',
    'fulfilled',
    'rejected',
    'fulfilled',
    'fulfilled',
  ]);
  expect(new Set(written)).toEqual(new Set([11, 12, 14, 15]));
});

test.each([
  ['longer than a string can be', new RangeError('Invalid string length')],
  ['larger than Postgres takes', sqlError('54000')],
])('a group that is %s goes in parts', async (_, err) => {
  const group = createGroupCommit<number, number>({
    recover: noRecovery,
    flush: (items) => (items.length > 2 ? Promise.reject(err) : Promise.resolve([...items])),
  });
  expect(await Promise.all([1, 2, 3, 4, 5].map((item) => group.add(item)))).toEqual([1, 2, 3, 4, 5]);
});

test('a deadlock is tried again', async () => {
  let tries = 0;
  const group = createGroupCommit<number, number>({
    recover: noRecovery,
    flush(items) {
      tries += 1;
      return tries < 3 ? Promise.reject(sqlError('40P01')) : Promise.resolve([...items]);
    },
  });
  expect(await group.add(7)).toBe(7);
  expect(tries).toBe(3);
});

test('after a lost connection every row is asked for, and only those that are not there fail', async () => {
  const group = createGroupCommit<number, string>({
    flush: () => Promise.reject(sqlError('57P01')),
    recover: (item, err) => (item === 1 ? Promise.resolve('was committed') : Promise.reject(err)),
  });
  const results = await Promise.allSettled([group.add(1), group.add(2)]);
  expect(results).toMatchObject([{ status: 'fulfilled', value: 'was committed' }, { status: 'rejected' }]);
});

test('more than may wait is refused, instead of filling the memory', async () => {
  const group = createGroupCommit<number, number>({
    recover: noRecovery,
    flush: (items) => Promise.resolve([...items]),
    pendingMax: 2,
  });
  const results = await Promise.allSettled([group.add(1), group.add(2), group.add(3)]);
  expect(results.map((result) => result.status)).toEqual(['fulfilled', 'fulfilled', 'rejected']);
});
