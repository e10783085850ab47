/**
 * F78: cron expressions over every change of the clocks from 2026 to 2036, in every zone that has one, held against an
 * oracle that knows nothing of cron libraries: it asks Intl what each minute around the change is called on the
 * wall, and reads off which of them are due.
 */
import { Cron } from 'croner';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { findCronProblem, ticksOf, yearsSearched } from './schedule-times.ts';

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;
const begin = Date.UTC(2026, 0, 1);
const end = Date.UTC(2037, 0, 1);
/** Looked at before and after each change. */
const aroundMs = 4 * hourMs;

/** What the wall says in a zone, as the UTC time that reads the same. */
function createWall(timezone: string): (at: number) => number {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
  });
  return (at) => {
    const match = /^(\d+)\/(\d+)\/(\d+), (\d+):(\d+)$/.exec(format.format(at));
    if (match === null) throw new Error(`Unexpected format: ${format.format(at)}`);
    const [, month, day, year, hour, minute] = match.map(Number);
    return Date.UTC(year ?? 0, (month ?? 0) - 1, day, hour, minute);
  };
}

interface Change {
  readonly timezone: string;
  readonly at: number;
  /** Wall clock minus UTC, before and after. */
  readonly before: number;
  readonly after: number;
}

/** All changes of a zone. No zone changes twice within five days. */
function findChanges(timezone: string): Change[] {
  const wall = createWall(timezone);
  const offsetAt = (at: number) => wall(at) - at;
  const changes: Change[] = [];
  let before = offsetAt(begin);
  for (let at = begin + 5 * dayMs; at < end; at += 5 * dayMs) {
    const after = offsetAt(at);
    if (after === before) continue;
    let [low, high] = [at - 5 * dayMs, at];
    while (high - low > minuteMs) {
      const middle = low + Math.floor((high - low) / 2 / minuteMs) * minuteMs;
      if (offsetAt(middle) === before) low = middle;
      else high = middle;
    }
    changes.push({ timezone, at: high, before, after });
    before = after;
  }
  return changes;
}

/** One zone for all that change in the same way. */
function listZonesWithChanges(): Change[][] {
  const zones = new Map<string, Change[]>();
  for (const timezone of Intl.supportedValuesOf('timeZone')) {
    const changes = findChanges(timezone);
    const kind = changes.map(({ at, before, after }) => `${at} ${before} ${after}`).join();
    if (changes.length > 0 && !zones.has(kind)) zones.set(kind, changes);
  }
  return [...zones.values()];
}

/** An expression, and what it means: the values at which each field holds. */
interface Expression {
  readonly cron: string;
  readonly isFixed: boolean;
  readonly second: readonly number[];
  readonly minute: readonly number[];
  readonly hour: readonly number[];
  /** Null: any. With both, one of them is enough. */
  readonly day: readonly number[] | null;
  readonly weekday: readonly number[] | null;
}

function holds(expression: Expression, wall: number): boolean {
  const date = new Date(wall);
  const { day, weekday } = expression;
  const isDay = day?.includes(date.getUTCDate());
  const isWeekday = weekday?.includes(date.getUTCDay());
  const isDate =
    isDay === undefined || isWeekday === undefined ? (isDay ?? isWeekday ?? true) : isDay || isWeekday;
  return (
    isDate && expression.minute.includes(date.getUTCMinutes()) && expression.hour.includes(date.getUTCHours())
  );
}

/** The ticks in the 4 h before and after, minute by minute. `walls` are those of the minutes from `from` on. */
function predict(expression: Expression, from: number, walls: readonly number[]): number[] {
  const due = new Set<number>();
  let highest = Number.NEGATIVE_INFINITY;
  for (const [index, wall] of walls.entries()) {
    const at = from + index * minuteMs;
    const previous = walls[index - 1];
    const isRepeated = wall <= highest;
    if (holds(expression, wall) && !(expression.isFixed && isRepeated))
      for (const second of expression.second) due.add(at + second * 1_000);
    if (expression.isFixed && previous !== undefined) {
      // Those that the wall leaves out come when it goes on, unless their day is over then.
      for (let left = previous + minuteMs; left < wall; left += minuteMs)
        if (holds(expression, left) && toDay(left) === toDay(wall)) due.add(at);
    }
    highest = Math.max(highest, wall);
  }
  return [...due].toSorted((a, b) => a - b);
}

function toDay(wall: number): number {
  return Math.floor(wall / dayMs);
}

function listTicks(cron: string, timezone: string, from: number, until: number): number[] {
  const ticks = ticksOf({ type: 'cron', cron, timezone });
  const found: number[] = [];
  let after = new Date(from - 1);
  for (;;) {
    const next = ticks.next(after);
    if (next === undefined || next.getTime() > until) return found;
    found.push(next.getTime());
    after = next;
  }
}

const range = (count: number) => Array.from({ length: count }, (_, index) => index);
const values = (max: number, options: { minLength: number; maxLength: number }) =>
  fc.uniqueArray(fc.integer({ min: 0, max }), options).map((list) => list.toSorted((a, b) => a - b));

interface Field {
  readonly text: string;
  readonly values: readonly number[];
  readonly isFixed: boolean;
}

const listField = (max: number, maxLength: number): fc.Arbitrary<Field> =>
  values(max, { minLength: 1, maxLength }).map((list) => ({
    text: list.join(','),
    values: list,
    isFixed: true,
  }));
const stepField = (max: number, steps: readonly number[]): fc.Arbitrary<Field> =>
  fc.constantFrom(...steps).map((step) => ({
    text: step === 1 ? '*' : `*/${step}`,
    values: range(max + 1).filter((value) => value % step === 0),
    isFixed: false,
  }));
const rangeField = (max: number): fc.Arbitrary<Field> =>
  fc.tuple(fc.integer({ min: 0, max }), fc.integer({ min: 0, max })).map(([a, b]) => {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    return { text: `${low}-${high}`, values: range(max + 1).slice(low, high + 1), isFixed: true };
  });

/** Hours are drawn around the change, so that most expressions have to do with it. */
function expressionsAround(change: Change): fc.Arbitrary<Expression> {
  const wallBefore = new Date(change.at + change.before);
  const wallAfter = new Date(change.at + change.after);
  const hours = [-2, -1, 0, 1].flatMap((shift) => [
    (wallBefore.getUTCHours() + shift + 24) % 24,
    (wallAfter.getUTCHours() + shift + 24) % 24,
  ]);
  const nearHour = fc
    .uniqueArray(fc.constantFrom(...hours), { minLength: 1, maxLength: 3 })
    .map((list) => ({ text: list.join(','), values: list, isFixed: true }));
  const second = fc.oneof(
    { weight: 4, arbitrary: fc.constant<Field>({ text: '', values: [0], isFixed: true }) },
    listField(59, 2),
  );
  const minute = fc.oneof(listField(59, 3), listField(59, 1), stepField(59, [7, 15, 30]));
  const hour = fc.oneof(nearHour, nearHour, rangeField(23), stepField(23, [1, 2, 3]));
  const day = fc.option(fc.constantFrom(wallBefore.getUTCDate(), wallAfter.getUTCDate(), 29), { freq: 3 });
  const weekday = fc.option(fc.constantFrom(wallBefore.getUTCDay(), wallAfter.getUTCDay(), 3), { freq: 3 });
  return fc.tuple(second, minute, hour, day, weekday).map(([s, m, h, d, w]) => ({
    cron: [s.text, m.text, h.text, d ?? '*', '*', w ?? '*'].join(' ').trim(),
    isFixed: s.isFixed && m.isFixed && h.isFixed,
    second: s.values,
    minute: m.values,
    hour: h.values,
    day: d === null ? null : [d],
    weekday: w === null ? null : [w],
  }));
}

describe('F78: when the clocks change', () => {
  const zones = listZonesWithChanges();

  test('every zone that changes its clocks is looked at', () => {
    expect(zones.length).toBeGreaterThan(20);
    const names = new Set(zones.flat().map((change) => (change.after - change.before) / hourMs));
    // Half an hour on Lord Howe, two hours at Troll.
    expect([...names]).toEqual(expect.arrayContaining([-1, 1, 0.5, -0.5, 2, -2]));
  });

  test('fixed times run once: the first of two, or at the first moment after a gap; all else keeps its rhythm', () => {
    for (const changes of zones) {
      for (const change of changes) {
        const { timezone, at } = change;
        const wall = createWall(timezone);
        // The repeated hour is recognised by what came before it.
        const from = at - aroundMs;
        const walls = range((2 * aroundMs) / minuteMs).map((index) => wall(from + index * minuteMs));
        const until = from + walls.length * minuteMs - 1;
        fc.assert(
          fc.property(expressionsAround(change), (expression) => {
            const { cron } = expression;
            const due = predict(expression, from, walls);
            const found = listTicks(cron, timezone, from, until);
            expect({ cron, timezone, found: found.map(toIso) }).toEqual({
              cron,
              timezone,
              found: due.map(toIso),
            });
            // Looking back finds the same as looking ahead.
            const ticks = ticksOf({ type: 'cron', cron, timezone });
            const newest = ticks.newest({ after: new Date(from - 1), until: new Date(until), count: 3 });
            expect(newest.map(Number)).toEqual(due.slice(-3));
          }),
          { numRuns: 6, seed: at / minuteMs },
        );
      }
    }
  }, 120_000);
});

function toIso(at: number): string {
  return new Date(at).toISOString();
}

describe('the calendar', () => {
  test('29 February comes in leap years only', () => {
    expect(listTicks('0 12 29 2 *', 'UTC', begin, Date.UTC(2045, 0, 1)).map(toIso)).toEqual([
      '2028-02-29T12:00:00.000Z',
      '2032-02-29T12:00:00.000Z',
      '2036-02-29T12:00:00.000Z',
      '2040-02-29T12:00:00.000Z',
      '2044-02-29T12:00:00.000Z',
    ]);
  });

  test('the last second of a year and the first of the next are in their own years, on the wall of the zone', () => {
    const from = Date.UTC(2026, 11, 30);
    const until = Date.UTC(2027, 0, 3);
    expect(listTicks('59 59 23 31 12 *', 'Pacific/Kiritimati', from, until).map(toIso)).toEqual([
      '2026-12-31T09:59:59.000Z',
    ]);
    expect(listTicks('0 0 1 1 *', 'America/New_York', from, until).map(toIso)).toEqual([
      '2027-01-01T05:00:00.000Z',
    ]);
  });

  test('a date that a month does not have is left out, and the last day of a month is one', () => {
    const [from, until] = [Date.UTC(2027, 0, 1), Date.UTC(2027, 4, 1)];
    expect(listTicks('0 0 31 * *', 'UTC', from, until).map(toIso)).toEqual([
      '2027-01-31T00:00:00.000Z',
      '2027-03-31T00:00:00.000Z',
    ]);
    expect(listTicks('0 0 L 2 *', 'UTC', from, until).map(toIso)).toEqual(['2027-02-28T00:00:00.000Z']);
  });
});

describe('intervals', () => {
  test('come at whole multiples from their anchor, and looking back finds the same as looking ahead', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1_000, max: 10 * dayMs }),
        fc.integer({ min: 0, max: 40 * dayMs }),
        fc.integer({ min: 0, max: 5 }),
        (everyMs, elapsed, count) => {
          const anchor = new Date(begin);
          const ticks = ticksOf({ type: 'every', everyMs, anchor });
          const after = new Date(begin + elapsed);
          const next = ticks.next(after)?.getTime() ?? Number.NaN;
          expect((next - begin) % everyMs).toBe(0);
          expect(next).toBeGreaterThan(after.getTime());
          expect(next - after.getTime()).toBeLessThanOrEqual(everyMs);
          const until = new Date(next + 2 * everyMs);
          const ahead = [next, next + everyMs, next + 2 * everyMs].slice(3 - Math.min(count, 3));
          expect(ticks.newest({ after, until, count }).map(Number)).toEqual(ahead);
        },
      ),
    );
  });
});

describe('what cannot be read is refused with its reason', () => {
  test.each([
    ['* * * *', 'UTC', 'cron'],
    ['* * * * * * *', 'UTC', 'cron'],
    ['@daily', 'UTC', 'cron'],
    ['2027-01-01T00:00:00', 'UTC', 'cron'],
    ['61 * * * *', 'UTC', 'cron'],
    ['a b c d e', 'UTC', 'cron'],
    ['0 0 30 2 *', 'UTC', 'cron'],
    [`${'1,'.repeat(150)}1 * * * *`, 'UTC', 'cron'],
    ['* * * * *', 'Mars/Olympus', 'timezone'],
    ['* * * * *', '+02:00', 'timezone'],
    ['* * * * *', '', 'timezone'],
  ])('%s in %s', (cron, timezone, field) => {
    const problem = findCronProblem({ cron, timezone }, new Date(begin));
    expect(problem).toMatchObject({ field });
    expect(problem?.detail).not.toContain('CronPattern');
  });

  test('and what can be read is not', () => {
    for (const cron of ['*/5 * * * *', '0 30 2 * * MON-FRI', '0 0 L * *', '0 9 * * FRI#2', ' 0  0 1 1 * '])
      expect(findCronProblem({ cron, timezone: 'Europe/Berlin' }, new Date(begin))).toBeUndefined();
  });
});

test('every kind of year there is, by its leap day and the weekday of its first day, comes again within those that are searched', () => {
  const kindOf = (year: number) =>
    `${new Date(Date.UTC(year, 1, 29)).getUTCMonth() === 1} ${new Date(Date.UTC(year, 0, 1)).getUTCDay()}`;
  // The calendar repeats itself every 400 years.
  for (let year = 2000; year < 2400; year += 1) {
    const later = Array.from({ length: yearsSearched }, (_, index) => kindOf(year + 1 + index));
    expect(new Set(later).size).toBe(14);
  }
});

test.each(['0 0 31 2,4,6,9,11 *', '* * * 8-31 * +MON#1', '0 0 15W * +SAT', '*/30 2 25-31 3 +SUN'])(
  'that %s is never due is found without looking at centuries',
  (cron) => {
    const looks = vi.spyOn(Date, 'UTC');
    onTestFinished(() => looks.mockRestore());
    const problem = findCronProblem({ cron, timezone: 'Europe/Berlin' }, new Date(begin));
    expect(problem?.detail).toContain('never due');
    expect(looks.mock.calls.map(([year]) => year).filter((year) => year > 2028 + yearsSearched)).toEqual([]);
  },
);

test('what is due once in forty years is found', () => {
  const timing = { type: 'cron', cron: '0 0 29 2 +MON', timezone: 'UTC' } as const;
  let from = new Date('2000-01-01T00:00:00Z');
  const years: number[] = [];
  while (from.getUTCFullYear() < 2400) {
    expect(findCronProblem(timing, from)).toBeUndefined();
    from = ticksOf(timing).next(from) ?? new Date(Number.NaN);
    years.push(from.getUTCFullYear());
  }
  const gaps = years.slice(1).map((year, index) => year - (years[index] ?? 0));
  expect(Math.max(...gaps)).toBe(40);
});

test.each(['* * * * * *', '0 0 29 2 *'])(
  'however many ticks of %s are asked for, none is looked for long before the range in which they are wanted',
  (cron) => {
    const previousRuns = vi.spyOn(Cron.prototype, 'previousRuns');
    onTestFinished(() => previousRuns.mockRestore());
    const ticks = ticksOf({ type: 'cron', cron, timezone: 'Europe/Berlin' });
    const until = new Date('2028-02-28T23:00:00Z');
    const newest = ticks.newest({ after: new Date(until.getTime() - 1_000), until, count: 1_000 });
    expect(newest).toEqual([until]);
    const looked = previousRuns.mock.calls.map(([count]) => count).reduce((sum, count) => sum + count, 0);
    expect(looked).toBeLessThan(5);
  },
);
