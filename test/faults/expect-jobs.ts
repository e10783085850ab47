import { expect } from 'vitest';
import type { TestJob } from '#test/support/service.ts';
import type { System } from '#test/support/system.ts';

/** Waits for the end of all accepted jobs, and demands that each succeeded with its first run. */
export async function expectOneRunEach(system: System): Promise<void> {
  const jobs = await system.finished();
  expect(jobs.filter((job) => job.state !== 'succeeded' || job.attempts.length !== 1)).toEqual([]);
}

export function outcomesOf(job: TestJob | undefined): string[] | undefined {
  return job?.attempts.map((attempt) => attempt.outcome);
}
