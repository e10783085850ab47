import type { z } from 'zod';
import type { JobSummaryRow } from '#shared/db/search-jobs.ts';
import { jobSchema, presentJob } from './present-job.ts';

/** A job in a list: without what may be large (input, result) or needs another look-up (files, attempts). */
export const jobSummarySchema = jobSchema
  .omit({ input: true, result: true, files: true, attempts: true, dependsOn: true })
  .meta({ id: 'JobSummary' });

export function presentJobSummary(row: JobSummaryRow): z.input<typeof jobSummarySchema> {
  const {
    input: _input,
    result: _result,
    files: _files,
    attempts: _attempts,
    dependsOn: _dependsOn,
    ...summary
  } = presentJob({ ...row, input: null, result: null }, [], []);
  return summary;
}
