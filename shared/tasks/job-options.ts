import { z } from 'zod';
import type { FieldError } from '../errors.ts';
import type { TaskDefinition } from './define-task.ts';

const yearMs = 366 * 86_400_000;

export const jobOptions = z
  .strictObject({
    delayMs: z
      .int()
      .min(0)
      .max(5 * yearMs)
      .optional()
      .describe('Start this long after acceptance, in ms.'),
    runAt: z.iso
      .datetime({ offset: true })
      .refine(isStorableInstant, 'must lie between the years 1 and 9999 (UTC)')
      .optional()
      .describe('Start at this time (ISO 8601); in the past means now. Not together with delayMs.'),
    startWithinMs: z
      .int()
      .min(1)
      .max(5 * yearMs)
      .optional()
      .describe(
        'Worthless when it has not started so long after its time, in ms: no attempt begins later, and the job fails with the code `expired`.',
      ),
    priority: z
      .int()
      .min(0)
      .max(9)
      .default(0)
      .describe('0 to 9, 9 first. Each step counts like a minute of waiting, so nothing starves.'),
    attempts: z.int().min(1).optional().describe('Attempts in all; the task sets the default and the most.'),
    backoff: z
      .strictObject({
        type: z.enum(['exponential', 'fixed']),
        delayMs: z.int().min(0).max(86_400_000),
        maxMs: z
          .int()
          .min(0)
          .max(7 * 86_400_000)
          .default(3_600_000),
      })
      .optional()
      .describe(
        'Wait between attempts, with full jitter: a random time up to delayMs (doubled per attempt if exponential), at most maxMs.',
      ),
    timeoutMs: z
      .int()
      .min(1)
      .optional()
      .describe('Time limit of one attempt, in ms; the task sets the default and the most.'),
    softTimeoutMs: z
      .int()
      .min(1)
      .optional()
      .describe('When the handler is told to finish with what it has, in ms from the start of an attempt.'),
    tags: z
      .array(z.string().regex(/^[\w.:/@-]{1,64}$/, '1 to 64 of letters, digits and _ . : / @ -'))
      .max(20)
      .default([])
      .describe('Labels to find the job by.'),
    retentionMs: z
      .int()
      .min(1_000)
      .max(5 * yearMs)
      .optional()
      .describe('How long result and files are kept after the end, in ms.'),
  })
  .refine((options) => options.delayMs === undefined || options.runAt === undefined, {
    message: 'Give delayMs or runAt, not both.',
    path: ['runAt'],
  });

export type JobOptions = z.output<typeof jobOptions>;

/** Where the options ask for more than the task allows. */
export function findCeilingErrors(options: JobOptions, task: TaskDefinition): FieldError[] {
  const errors: FieldError[] = [];
  if (options.attempts !== undefined && options.attempts > task.attempts.max) {
    errors.push({
      pointer: '/options/attempts',
      detail: `The task ${task.name} allows at most ${task.attempts.max} attempts.`,
    });
  }
  if (options.timeoutMs !== undefined && options.timeoutMs > task.timeoutMs.max) {
    errors.push({
      pointer: '/options/timeoutMs',
      detail: `The task ${task.name} allows at most ${task.timeoutMs.max} ms.`,
    });
  }
  if (options.softTimeoutMs !== undefined && options.softTimeoutMs > task.timeoutMs.max) {
    errors.push({
      pointer: '/options/softTimeoutMs',
      detail: `The task ${task.name} allows at most ${task.timeoutMs.max} ms.`,
    });
  }
  return errors;
}

/** Postgres has no year 0 and writes those after 9999 in another way than ISO 8601 does. */
function isStorableInstant(text: string): boolean {
  const year = new Date(text).getUTCFullYear();
  return year >= 1 && year <= 9_999;
}
