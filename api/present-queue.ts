import { z } from 'zod';
import { queueCountMax, type QueueStats } from '#shared/db/queue-stats.ts';

const count = z.int();

/** A queue as operators see it: numbers over all tenants. */
export const queueSchema = z
  .object({
    name: z.string(),
    paused: z.boolean(),
    pausedAt: z.iso.datetime().nullable(),
    pauseReason: z.string().nullable(),
    counts: z
      .object({
        scheduled: count,
        blocked: count,
        queued: count,
        active: count,
        retrying: count,
        failed: count.describe('Dead letters that are still kept.'),
      })
      .describe(`Jobs by state. Counting ends at ${queueCountMax}, which means that many or more.`),
    slots: z.int().describe('Jobs at once, of all workers that take jobs now.'),
    busy: z.int().describe('Jobs that run.'),
    oldestWaitMs: z
      .int()
      .describe('For how long the oldest of the jobs next in line has been waiting; 0 when none waits.'),
  })
  .meta({ id: 'Queue' });

export function presentQueue(stats: QueueStats): z.input<typeof queueSchema> {
  const { scheduled, blocked, queued, active, retrying, failed } = stats;
  return {
    name: stats.name,
    paused: stats.is_paused,
    pausedAt: stats.paused_at?.toISOString() ?? null,
    pauseReason: stats.pause_reason,
    counts: { scheduled, blocked, queued, active, retrying, failed },
    slots: stats.slots,
    busy: active,
    oldestWaitMs: Math.round(stats.oldest_wait_ms),
  };
}
