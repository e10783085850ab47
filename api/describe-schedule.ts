import cronstrue from 'cronstrue';
import type { Timing } from '#shared/domain/schedule-times.ts';

/** When a schedule is due, in words. */
export function describeTiming(timing: Timing): string {
  return timing.type === 'cron'
    ? `${describeCron(timing.cron)} (${timing.timezone})`
    : `Every ${describeDuration(timing.everyMs)}`;
}

function describeCron(cron: string): string {
  try {
    return cronstrue.toString(cron, { use24HourTimeFormat: true });
  } catch {
    // It has no words for some of what croner reads, `+` for example.
    return `When "${cron}" fits`;
  }
}

const units = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
  ['second', 1_000],
  ['millisecond', 1],
] as const;

/** `5 minutes`, `1 hour 30 minutes`. */
function describeDuration(ms: number): string {
  const parts: string[] = [];
  let rest = ms;
  for (const [unit, unitMs] of units) {
    const count = Math.floor(rest / unitMs);
    rest %= unitMs;
    if (count > 0) parts.push(`${count} ${unit}${count === 1 ? '' : 's'}`);
  }
  return parts.join(' ');
}
