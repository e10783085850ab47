import { expect } from 'vitest';
import type { TestJob } from '#test/support/service.ts';
import type { System } from '#test/support/system.ts';

/** Waits for the end of all accepted jobs, and demands that each succeeded with its first run. */
export async function expectOneRunEach(system: System): Promise<void> {
  const jobs = await system.finished();
  const ends = jobs.map((job) => [job.id, job.state, ...job.attempts.map((attempt) => attempt.outcome)]);
  expect(ends.filter((end) => end.length !== 3 || end[1] !== 'succeeded')).toEqual([]);
}

export function outcomesOf(job: TestJob | undefined): string[] | undefined {
  return job?.attempts.map((attempt) => attempt.outcome);
}
