import { expect, test } from 'vitest';
import { waitFor } from './wait-for.ts';

test('returns the first value that is not undefined, also when it is falsy', async () => {
  const answers = [undefined, undefined, 0, 1];
  expect(await waitFor(() => answers.shift(), { what: 'an answer' })).toBe(0);
});

test('goes on when the probe fails, and returns what it says later', async () => {
  let calls = 0;
  const value = await waitFor(
    () => {
      calls += 1;
      if (calls < 3) throw new Error('not there yet');
      return calls;
    },
    { what: 'the server' },
  );
  expect(value).toBe(3);
});

test('on the deadline it says what it waited for and what it last saw', async () => {
  const waiting = waitFor(() => undefined, {
    what: 'the job to succeed',
    deadlineMs: 50,
    seen: () => ({ state: 'active' }),
  });
  await expect(waiting).rejects.toThrow(
    "Waited 50 ms for the job to succeed. Last seen: { state: 'active' }.",
  );
});

test('on the deadline it keeps the last failure of the probe as its cause', async () => {
  const waiting = waitFor(
    () => {
      throw new Error('refused');
    },
    { what: 'the server', deadlineMs: 50 },
  );
  await expect(waiting).rejects.toMatchObject({ cause: { message: 'refused' } });
});
