import { expect, test } from 'vitest';
import { createNotes } from './notes.ts';

test('what was noted is worked on once, and again after a failure', async () => {
  const woken = Promise.withResolvers<void>();
  const notes = createNotes(woken.resolve);
  notes.add('a');
  notes.add('a');
  notes.add('b');
  await woken.promise;
  await expect(notes.take(() => Promise.reject(new Error('away')))).rejects.toThrow('away');
  notes.add('c');
  notes.stop();
  const worked: string[][] = [];
  const work = async (ids: readonly string[]) => void worked.push(ids.toSorted());
  await notes.take(work);
  await notes.take(work);
  expect(worked).toEqual([['a', 'b', 'c']]);
});
