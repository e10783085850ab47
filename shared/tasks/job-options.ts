import { z } from 'zod';
import type { NewDependency } from '../db/dependencies.ts';
import type { FieldError } from '../errors.ts';
import type { TaskDefinition } from './define-task.ts';

/** Jobs that one job may wait for. */
export const dependsOnMax = 100;

const yearMs = 366 * 86_400_000;

const instantMin = Date.parse('0001-01-01T00:00:00Z');
const instantMax = Date.parse('9999-12-31T23:59:59.999Z');

/** Keys are text that can be shown in a line. */
const limitKey = z
  .string()
  .regex(/^[^\p{Cc}\p{Cs}]{1,255}$/u, '1 to 255 characters, none of them a control character');

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
    uniqueKey: z
      .strictObject({
        key: limitKey.describe('Compared within the tenant and the task.'),
        until: z
          .enum(['started', 'finished'])
          .optional()
          .describe('What lets the next job be made: the start of this one, or its end (default).'),
        ttlMs: z
          .int()
          .min(1)
          .max(yearMs)
          .optional()
          .describe(
            'With `until`: so long at most. Without: exactly so long from the acceptance on, also after the end, so that one job is made in each window.',
          ),
        mode: z
          .literal('debounce')
          .optional()
          .describe(
            'A further request replaces the input of the job that waits, and puts it off by `delayMs`.',
          ),
        delayMs: z
          .int()
          .min(1)
          .max(yearMs)
          .optional()
          .describe('Debounce: start so long after the last request.'),
        maxWaitMs: z
          .int()
          .min(1)
          .max(yearMs)
          .optional()
          .describe('Debounce: but so long after the first request at the latest. Default: 10 × `delayMs`.'),
      })
      .optional()
      .describe(
        'While a job with this key is alive no second one is made: the answer is 200 with that job, and `Windlass-Duplicate: true`.',
      ),
    concurrencyKey: limitKey
      .optional()
      .describe(
        'At most so many jobs with this key (within tenant and queue) run at once as `concurrencyPerKey` of the task says.',
      ),
    dependsOn: z
      .array(
        z.union([
          z.uuid(),
          z.strictObject({
            job: z.uuid(),
            on: z
              .enum(['success', 'end'])
              .default('success')
              .describe('`success`: cancelled unless that job succeeds. `end`: runs whatever becomes of it.'),
          }),
        ]),
      )
      .max(dependsOnMax)
      .optional()
      .describe('Ids of jobs that must have ended before; it is `blocked` until then.'),
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
  })
  .refine(
    ({ runAt, startWithinMs }) =>
      runAt === undefined || startWithinMs === undefined || Date.parse(runAt) + startWithinMs <= instantMax,
    { message: 'The job would have to start after the year 9999.', path: ['startWithinMs'] },
  )
  .superRefine((options, ctx) => {
    const { uniqueKey } = options;
    if (uniqueKey === undefined) return;
    const refuse = (field: string, message: string): void =>
      ctx.addIssue({ code: 'custom', path: ['uniqueKey', field], message });
    if (uniqueKey.mode === undefined) {
      if (uniqueKey.delayMs !== undefined) refuse('delayMs', 'Only with `"mode": "debounce"`.');
      if (uniqueKey.maxWaitMs !== undefined) refuse('maxWaitMs', 'Only with `"mode": "debounce"`.');
      return;
    }
    if (uniqueKey.delayMs === undefined) refuse('delayMs', 'Debounce needs a `delayMs`.');
    if (uniqueKey.until !== undefined)
      refuse('until', 'Not with debounce, which ends with the start of the job.');
    if (uniqueKey.ttlMs !== undefined) refuse('ttlMs', 'Not with debounce; `maxWaitMs` bounds it.');
    if (options.delayMs !== undefined || options.runAt !== undefined)
      refuse(
        'mode',
        'Debounce says itself when the job starts: leave out options.delayMs and options.runAt.',
      );
  });

export type JobOptions = z.output<typeof jobOptions>;

/** Each job once; one that is named twice must succeed if it says so anywhere. */
export function readDependsOn(options: Pick<JobOptions, 'dependsOn'>): NewDependency[] {
  if (options.dependsOn === undefined) return [];
  const ons = new Map<string, NewDependency['on']>();
  for (const item of options.dependsOn) {
    const { job, on } = typeof item === 'string' ? { job: item, on: 'success' as const } : item;
    const id = job.toLowerCase();
    ons.set(id, ons.get(id) === 'success' ? 'success' : on);
  }
  return [...ons].map(([parentId, on]) => ({ parentId, on, refs: [] }));
}

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
  const instant = Date.parse(text);
  return instant >= instantMin && instant <= instantMax;
}
