/**
 * When a schedule is due: its *ticks*. A cron expression counts on the wall clock of its time zone, an interval from the
 * moment it was set. Nothing here knows what time it is.
 *
 * Twice a year most wall clocks leave out an hour and repeat one. What then happens to a cron expression is Vixie
 * cron's rule, kept by `croner` and held against an oracle of our own in schedule-times.test.ts:
 * - Fixed times (no `*` and no step in second, minute and hour): a time that is left out is due at the first moment after
 *   the gap, if that is on the same day; one that is repeated is due the first time only.
 * - Everything else goes on in its rhythm: nothing is due in the gap, and what is repeated is due both times.
 */
import { Cron } from 'croner';

export type Timing =
  | { readonly type: 'cron'; readonly cron: string; readonly timezone: string }
  | { readonly type: 'every'; readonly everyMs: number; readonly anchor: Date };

export interface Ticks {
  /** The first tick after a moment; undefined when there is none any more. */
  next(after: Date): Date | undefined;
  /** Up to `count` ticks in (after, until], the newest of them, oldest first. */
  newest(options: { after: Date; until: Date; count: number }): Date[];
}

/** The shortest interval between two ticks, which is also the finest step of a cron expression. */
export const everyMsMin = 1_000;
export const everyMsMax = 366 * 86_400_000;
export const cronLengthMax = 200;
/**
 * After so many years every kind of year has come again (a leap day on a certain weekday is the rarest, up to 40 years apart), so
 * what is not due until then never is. Croner itself would go on to the year 3000, which takes it up to half a second.
 */
export const yearsSearched = 40;

/** @throws Error when the expression or the time zone cannot be read (`findCronProblem` says why). */
export function ticksOf(timing: Timing): Ticks {
  return timing.type === 'cron' ? cronTicks(readCron(timing)) : everyTicks(timing);
}

/** What is wrong with it, for the one who wrote it; undefined when nothing is. */
export function findCronProblem(
  timing: { cron: string; timezone: string },
  now: Date,
): { field: 'cron' | 'timezone'; detail: string } | undefined {
  const { cron, timezone } = timing;
  if (!isTimeZone(timezone)) {
    return {
      field: 'timezone',
      detail: 'is not a time zone of the IANA database, for example "Europe/Berlin" or "UTC".',
    };
  }
  const fields = cron.trim().split(/\s+/).length;
  // Croner also reads nicknames and single dates; an expression of ours always has its fields.
  if (cron.length > cronLengthMax || (fields !== 5 && fields !== 6)) {
    return {
      field: 'cron',
      detail: `must have 5 fields (minute hour day month weekday), or 6 with seconds first, and at most ${cronLengthMax} characters.`,
    };
  }
  try {
    readCron(timing); // For its reason: with years it says another one.
    if (isNeverDue(timing, now)) return { field: 'cron', detail: 'is never due: there is no such date.' };
  } catch (err) {
    const reason = err instanceof Error ? err.message.replace(/^CronPattern: /, '') : String(err);
    return { field: 'cron', detail: `cannot be read: ${reason}` };
  }
  return undefined;
}

/** Offsets such as `+02:00`, which Intl knows as well, have no rules for summer time and are refused. */
function isTimeZone(name: string): boolean {
  if (!/^[A-Za-z][\w+/-]{0,63}$/.test(name)) return false;
  try {
    Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

/** The years of the search as a seventh field, beyond which croner does not look. */
function isNeverDue({ cron, timezone }: { cron: string; timezone: string }, now: Date): boolean {
  const fields = cron.trim().split(/\s+/);
  // It is the next year already in some zones, and still the last one in others.
  const years = `${now.getUTCFullYear() - 1}-${now.getUTCFullYear() + 1 + yearsSearched}`;
  const withYears = [...(fields.length === 5 ? ['0'] : []), ...fields, years].join(' ');
  return new Cron(withYears, { ...cronOptions, mode: '7-part', timezone }).nextRun(now) === null;
}

/** Fixed times are moved out of a gap, rhythms go on after it. */
const cronOptions = { fixedTimeRule: 'no-wildcard' } as const;

function readCron({ cron, timezone }: { cron: string; timezone: string }): Cron {
  // Without a function there is no timer.
  return new Cron(cron.trim(), { ...cronOptions, mode: '5-or-6-parts', timezone });
}

function cronTicks(cron: Cron): Ticks {
  return {
    next: (after) => cron.nextRun(after) ?? undefined,
    newest({ after, until, count }) {
      // Croner looks before the moment that it is given, as far back as it takes to find so many: a thousand cost it up to a
      // second, although most often there is one. So a few are asked for first.
      for (let wanted = Math.min(2, count); ; wanted = Math.min(wanted * 4, count)) {
        const newest = cron.previousRuns(wanted, new Date(until.getTime() + 1));
        const inRange = newest.filter((tick) => tick > after);
        if (inRange.length < wanted || wanted === count) return inRange.toReversed();
      }
    },
  };
}

function everyTicks({ everyMs, anchor }: { everyMs: number; anchor: Date }): Ticks {
  const indexOf = (moment: Date) => Math.floor((moment.getTime() - anchor.getTime()) / everyMs);
  const tickAt = (index: number) => new Date(anchor.getTime() + index * everyMs);
  return {
    // The anchor itself is no tick: the first one comes an interval later.
    next: (after) => tickAt(Math.max(0, indexOf(after)) + 1),
    newest({ after, until, count }) {
      const last = indexOf(until);
      const first = Math.max(indexOf(after) + 1, last - count + 1, 1);
      return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => tickAt(first + index));
    },
  };
}
