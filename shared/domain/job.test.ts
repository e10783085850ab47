import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  backoffDelayMs,
  canMove,
  isFinal,
  jobStates,
  settle,
  transitions,
  type RunOutcome,
  type RunPolicy,
} from './job.ts';

const policy: RunPolicy = {
  attemptsUsed: 0,
  attemptsMax: 3,
  crashes: 0,
  crashesMax: 3,
  onCrash: 'retry',
  backoff: { type: 'exponential', delayMs: 1_000, maxMs: 60_000 },
  isCancelRequested: false,
};
const error = { code: 'task-failed', message: 'x', retryable: true };
const crash: RunOutcome = { type: 'crashed', error: { ...error, code: 'crashed' } };

const outcomes: fc.Arbitrary<RunOutcome> = fc.oneof(
  fc.constant<RunOutcome>({ type: 'succeeded', result: 1 }),
  fc.boolean().map((retryable): RunOutcome => ({ type: 'failed', error: { ...error, retryable } })),
  fc.nat(10_000).map((delayMs): RunOutcome => ({ type: 'snoozed', error, delayMs })),
  fc.constant(crash),
  fc.constant<RunOutcome>({ type: 'cancelled' }),
  fc.constant<RunOutcome>({ type: 'interrupted' }),
  fc.constant<RunOutcome>({ type: 'waiting' }),
);
const policies: fc.Arbitrary<RunPolicy> = fc
  .record({
    attemptsMax: fc.integer({ min: 1, max: 20 }),
    used: fc.nat(19),
    crashes: fc.nat(5),
    crashesMax: fc.integer({ min: 1, max: 5 }),
    onCrash: fc.constantFrom('retry' as const, 'fail' as const),
    isCancelRequested: fc.boolean(),
  })
  .map(({ used, ...rest }) => ({ ...policy, ...rest, attemptsUsed: Math.min(used, rest.attemptsMax - 1) }));

describe('the transition table', () => {
  test('final states lead nowhere, except that a failed job can be retried by hand', () => {
    expect(jobStates.filter(isFinal).map((state) => [state, transitions[state]])).toEqual([
      ['succeeded', []],
      ['failed', ['queued', 'blocked']],
      ['cancelled', []],
    ]);
  });

  test('every state that is not final can be cancelled', () => {
    expect(jobStates.filter((state) => !isFinal(state) && !canMove(state, 'cancelled'))).toEqual([]);
  });
});

describe('settle', () => {
  test('whatever ends a run, the next state is one that an active job may move to', () => {
    fc.assert(
      fc.property(outcomes, policies, (outcome, given) => canMove('active', settle(outcome, given).state)),
    );
  });

  test('attempts never exceed their maximum, and a job that may run again has one left', () => {
    fc.assert(
      fc.property(outcomes, policies, (outcome, given) => {
        const { state, attemptsUsed } = settle(outcome, given);
        expect(attemptsUsed).toBeLessThanOrEqual(given.attemptsMax);
        if (state === 'retrying' || state === 'queued' || state === 'blocked')
          expect(attemptsUsed).toBeLessThan(given.attemptsMax);
      }),
    );
  });

  test('a success counts although a cancel was asked for in the meantime', () => {
    expect(settle({ type: 'succeeded', result: 1 }, { ...policy, isCancelRequested: true }).state).toBe(
      'succeeded',
    );
  });

  test('a cancel that was asked for ends every run that did not succeed', () => {
    fc.assert(
      fc.property(outcomes, policies, (outcome, given) => {
        fc.pre(outcome.type !== 'succeeded');
        expect(settle(outcome, { ...given, isCancelRequested: true }).state).toBe('cancelled');
      }),
    );
  });

  test('a snooze and an interruption use no attempt', () => {
    expect(settle({ type: 'snoozed', error, delayMs: 50 }, policy)).toMatchObject({
      state: 'retrying',
      attemptsUsed: 0,
      delayMs: 50,
    });
    expect(settle({ type: 'interrupted' }, policy)).toMatchObject({
      state: 'queued',
      attemptsUsed: 0,
      error: undefined,
    });
  });

  test('a job that waits for jobs it has made is blocked, and has used no attempt', () => {
    expect(settle({ type: 'waiting' }, policy)).toMatchObject({
      state: 'blocked',
      attemptsUsed: 0,
      error: undefined,
      outcome: 'snoozed',
    });
  });

  test('the first crash starts the job again at once, later ones wait, and the third ends it', () => {
    expect(settle(crash, policy, () => 1)).toMatchObject({ state: 'retrying', crashes: 1, delayMs: 0 });
    const later = { ...policy, attemptsMax: 10, attemptsUsed: 1, crashes: 1 };
    expect(settle(crash, later, () => 1)).toMatchObject({ state: 'retrying', crashes: 2, delayMs: 2_000 });
    expect(settle(crash, { ...later, attemptsUsed: 2, crashes: 2 })).toMatchObject({
      state: 'failed',
      error: { code: 'crashed' },
    });
  });

  test('a task that must not run twice fails at its first crash', () => {
    expect(settle(crash, { ...policy, onCrash: 'fail' }).state).toBe('failed');
  });

  test('an error that cannot be mended by another attempt ends the job at once', () => {
    expect(settle({ type: 'failed', error: { ...error, retryable: false } }, policy)).toMatchObject({
      state: 'failed',
      attemptsUsed: 1,
    });
  });
});

describe('backoff', () => {
  test('doubles its ceiling with each attempt, up to the maximum', () => {
    const ceilings = [1, 2, 3, 7, 50].map((attempt) => backoffDelayMs(policy.backoff, attempt, () => 1));
    expect(ceilings).toEqual([1_000, 2_000, 4_000, 60_000, 60_000]);
  });

  test('is a draw between zero and the ceiling', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (attempt, draw) => {
          const delay = backoffDelayMs(policy.backoff, attempt, () => draw);
          expect(delay).toBeGreaterThanOrEqual(0);
          expect(delay).toBeLessThanOrEqual(policy.backoff.maxMs);
        },
      ),
    );
  });
});
