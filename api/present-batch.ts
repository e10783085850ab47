import { z } from 'zod';
import type { BatchRow } from '#shared/db/batches.ts';
import { isFinal, jobStates, type JobState } from '#shared/domain/job.ts';

export const batchLinks = z.object({
  self: z.string(),
  jobs: z.string().describe('Its jobs, newest first.'),
});

/** How far a batch is. */
export const batchSchema = z
  .object({
    id: z.uuid(),
    createdAt: z.iso.datetime(),
    total: z.int().describe('Jobs that were accepted with it; of a stream, so far.'),
    counts: z
      .object(Object.fromEntries(jobStates.map((state) => [state, z.int()])) as Record<JobState, z.ZodInt>)
      .describe('Jobs by state. Those that were deleted in the meantime are in none.'),
    progress: z.object({ percent: z.number().describe('Jobs that have ended, of all.') }),
    isFinal: z.boolean().describe('All its jobs have ended.'),
    onCompleteJobId: z.uuid().nullable().describe('The job that starts when all others have ended.'),
    links: batchLinks,
  })
  .meta({ id: 'Batch' });

export function presentBatch(
  row: BatchRow,
  states: readonly { state: JobState; count: number }[],
): z.input<typeof batchSchema> {
  const count = (which: (state: JobState) => boolean): number =>
    states.reduce((sum, entry) => sum + (which(entry.state) ? entry.count : 0), 0);
  const present = count(() => true);
  const total = row.size ?? present;
  const open = count((state) => !isFinal(state));
  return {
    id: row.id,
    createdAt: row.created_at.toISOString(),
    total,
    // One entry for each state.
    counts: Object.fromEntries(
      jobStates.map((state) => [state, count((other) => other === state)]),
    ) as Record<JobState, number>,
    // Rounded down, so that 100 means all.
    progress: { percent: total === 0 ? 0 : Math.floor((1_000 * (total - open)) / total) / 10 },
    isFinal: open === 0,
    onCompleteJobId: row.on_complete_job_id,
    links: linksOf(row.id),
  };
}

export function linksOf(batchId: string): z.input<typeof batchLinks> {
  return { self: `/v1/batches/${batchId}`, jobs: `/v1/jobs?q=batch:${batchId}` };
}
