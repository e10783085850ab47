import type { Ticks } from './schedule-times.ts';

export const misfires = ['skip', 'run-once', 'run-all'] as const;
export type Misfire = (typeof misfires)[number];
export const overlaps = ['allow', 'skip'] as const;
export type Overlap = (typeof overlaps)[number];
/** What became of a tick: a job; left out because a job of the schedule had not ended; left out because it was too late. */
export const tickOutcomes = ['job', 'overlap', 'misfire'] as const;
export type TickOutcome = (typeof tickOutcomes)[number];

/** `skip`: a tick that is later than this is left out, in ms. Shorter outages (a deploy) lose nothing. */
export const misfireGraceMs = 60_000;
/** Jobs that one outage makes at most, the newest; of a schedule that runs every second, a quarter of an hour. */
export const misfireJobsMax = 1_000;

/** Of the ticks in (after, now], those that become jobs, oldest first. Usually that is the one that has just come. */
export function chooseTicks(ticks: Ticks, range: { after: Date; now: Date; misfire: Misfire }): Date[] {
  const { after, now, misfire } = range;
  switch (misfire) {
    case 'skip': {
      const oldest = now.getTime() - misfireGraceMs;
      return ticks.newest({
        after: new Date(Math.max(after.getTime(), oldest - 1)),
        until: now,
        count: misfireJobsMax,
      });
    }
    case 'run-once':
      return ticks.newest({ after, until: now, count: 1 });
    case 'run-all':
      return ticks.newest({ after, until: now, count: misfireJobsMax });
  }
}
