/** Judgements of how a job ended, of which the kinds are made. */
import type { FinalJob, JobKind } from './job-kinds.ts';

const crashesMax = 3;

/** The nemesis may kill the worker of any job; after enough deaths the job ends with that. */
export function wasCrashed(job: FinalJob): boolean {
  return (
    job.state === 'failed' &&
    job.error?.code === 'crashed' &&
    (job.crashes >= crashesMax || job.attemptsUsed >= job.attemptsMax)
  );
}

export function succeededWith(isRight: (job: FinalJob, expected: any) => boolean): JobKind['judge'] {
  return (job, expected) => {
    if (wasCrashed(job)) return undefined;
    if (job.state !== 'succeeded') return `ended as ${describe(job)}`;
    return isRight(job, expected)
      ? undefined
      : `has the result ${JSON.stringify(job.result)}, expected was ${JSON.stringify(expected)}`;
  };
}

export function failedWith(code: string): JobKind['judge'] {
  return (job) =>
    wasCrashed(job) || (job.state === 'failed' && job.error?.code === code)
      ? undefined
      : `ended as ${describe(job)} instead of failed (${code})`;
}

export function describe(job: FinalJob): string {
  return job.error === null ? job.state : `${job.state} (${job.error.code})`;
}
