import { expect, test } from 'vitest';
import { createSearchTurns } from './search-turns.ts';

/** A search that runs until it is ended. */
function openSearch(started: string[], name: string) {
  const { promise, resolve } = Promise.withResolvers<string>();
  return {
    end: () => resolve(name),
    search: () => {
      started.push(name);
      return promise;
    },
  };
}

test('searches of one tenant leave room for those of another', async () => {
  const turns = createSearchTurns({ atOnce: 2, waitingPerTenant: 10 });
  const started: string[] = [];
  const searches = ['a1', 'a2', 'a3', 'b1', 'c1'].map((name) => ({ name, ...openSearch(started, name) }));
  const answers = searches.map(({ name, search }) => turns.run(name.charAt(0), () => true, search));
  await Promise.resolve();
  expect(started).toEqual(['a1', 'b1']);
  for (const { end } of searches) end();
  expect(await Promise.all(answers)).toEqual(['a1', 'a2', 'a3', 'b1', 'c1']);
  expect(started.indexOf('c1')).toBeLessThan(started.indexOf('a3'));
});

test('a search that failed gives its turn to the next', async () => {
  const turns = createSearchTurns({ atOnce: 1, waitingPerTenant: 10 });
  const failed = turns.run(
    'a',
    () => true,
    () => Promise.reject(new Error('Postgres is away')),
  );
  const next = turns.run(
    'a',
    () => true,
    () => Promise.resolve('found'),
  );
  await expect(failed).rejects.toThrow('Postgres is away');
  expect(await next).toBe('found');
});

test('a search whose client has gone while it waited is not run', async () => {
  const turns = createSearchTurns({ atOnce: 1, waitingPerTenant: 10 });
  const started: string[] = [];
  const answer = await turns.run('a', () => false, openSearch(started, 'a1').search);
  expect([answer, started]).toEqual([undefined, []]);
});

test('a tenant that sends searches faster than they are answered is refused, and no other tenant', async () => {
  const turns = createSearchTurns({ atOnce: 1, waitingPerTenant: 1 });
  const { end, search } = openSearch([], 'a');
  const first = turns.run('a', () => true, search);
  const second = turns.run('a', () => true, search);
  await expect(turns.run('a', () => true, search)).rejects.toMatchObject({ code: 'rate-limited' });
  const other = turns.run('b', () => true, search);
  end();
  expect(await Promise.all([first, second, other])).toEqual(['a', 'a', 'a']);
});
