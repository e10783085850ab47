/**
 * One definition per task drives HTTP validation, OpenAPI, the worker and (later) client types and forms.
 *
 * A task is a folder: `task.ts` says *what* (this function), `handler.ts` says *how*. The api loads only
 * the former. Task authors import all they need from `windlass/task`, which is this file.
 */
import { z } from 'zod';
import type { TaskContext } from './task-context.ts';

export type { TaskContext, InputFile, OutputFile, OutputLimits, InlineTaskContext } from './task-context.ts';
export { InvalidInputError, NotNowError } from './task-errors.ts';
export { z } from 'zod';

/** How long to wait before the next attempt: full jitter over `delayMs` (× 2 per attempt if exponential), at most `maxMs`. */
export interface Backoff {
  readonly type: 'exponential' | 'fixed';
  readonly delayMs: number;
  readonly maxMs: number;
}

/** `max`: 1 to 10,000. `perMs`: up to a day. */
export interface RateLimit {
  readonly max: number;
  readonly perMs: number;
}

export interface TaskDefinition<Input extends z.ZodType = z.ZodType, Output extends z.ZodType = z.ZodType> {
  /** `noun.verb`, 1 to 64 of `a-z 0-9 . -`. What clients write. */
  readonly name: string;
  readonly title: string;
  readonly description: string;
  /** Jobs of one queue share slots and order. `a-z 0-9 -`. */
  readonly queue: string;
  /**
   * `process` (default): the handler runs in a child process that can be limited and killed.
   * `inline`: it runs in the worker itself; only for handlers that merely wait, and that we trust.
   */
  readonly isolation: 'process' | 'inline';
  readonly input: Input;
  readonly output: Output;
  /** An example input, shown in the documentation; it must pass `input`. File fields hold any UUID. */
  readonly example: unknown;
  /** Attempts of a job that says nothing, and the most it may ask for. */
  readonly attempts: { readonly default: number; readonly max: number };
  readonly backoff: Backoff;
  /** Limit of one attempt in ms: then the handler's signal is aborted, and its process is killed 2.5 s later. */
  readonly timeoutMs: { readonly default: number; readonly max: number };
  /** When `ctx.softSignal` is aborted, in ms from the start of an attempt. Default: never. */
  readonly softTimeoutMs?: number;
  /** Deaths of the host or worker during this job before it is given up with the code `crashed`. */
  readonly crashesMax: number;
  /** What becomes of a job whose run died half-way: run it again, or fail it (at most once). */
  readonly onCrash: 'retry' | 'fail';
  /** Jobs with the same `options.concurrencyKey` (within tenant and queue) that may run at once. */
  readonly concurrencyPerKey: number;
  /** At most `max` attempts of this queue begin within any `perMs` ms. Tasks of one queue that say so must agree. */
  readonly rateLimit?: RateLimit;
  /** The same for the jobs of one `options.concurrencyKey`. */
  readonly rateLimitPerKey?: RateLimit;
  /** Only the service itself makes jobs of it: no client can send one, and none is told of the task. */
  readonly isInternal?: boolean;
  /** Overrides WINDLASS_JOB_RETENTION_MS for jobs of this task. */
  readonly retentionMs?: number;
}

type Handler<Input extends z.ZodType, Output extends z.ZodType, Ctx> = (
  input: z.output<Input>,
  ctx: Ctx,
) => Promise<z.input<Output>> | z.input<Output>;

/** The type of a handler of this definition: `export default (async (input, ctx) => …) satisfies HandlerOf<typeof task>`. */
export type HandlerOf<Task extends TaskDefinition, Ctx = TaskContext> =
  Task extends TaskDefinition<infer Input, infer Output> ? Handler<Input, Output, Ctx> : never;

type Defaulted =
  | 'isolation'
  | 'attempts'
  | 'backoff'
  | 'timeoutMs'
  | 'crashesMax'
  | 'onCrash'
  | 'queue'
  | 'concurrencyPerKey';

const taskName = /^[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)*$/;
const queueName = /^[a-z][a-z0-9-]{0,62}$/;

/**
 * Declares a task. Defaults: queue `default`, isolation `process`, 3 attempts (10 at most), exponential
 * backoff from 1 s to 10 min, 5 min time limit (1 h at most), given up after 3 crashes, 1 job at
 * once per concurrency key, no rates.
 * @throws TypeError when the definition contradicts itself; the message names the task and the field.
 */
export function defineTask<Input extends z.ZodType, Output extends z.ZodType>(
  given: Omit<TaskDefinition<Input, Output>, Defaulted> &
    Partial<Pick<TaskDefinition<Input, Output>, Defaulted>>,
): TaskDefinition<Input, Output> {
  const task: TaskDefinition<Input, Output> = {
    queue: 'default',
    isolation: 'process',
    attempts: { default: 3, max: 10 },
    backoff: { type: 'exponential', delayMs: 1_000, maxMs: 600_000 },
    timeoutMs: { default: 300_000, max: 3_600_000 },
    crashesMax: 3,
    onCrash: 'retry',
    concurrencyPerKey: 1,
    ...given,
  };
  const problem = findProblem(task);
  if (problem !== undefined) throw new TypeError(`Task "${task.name}": ${problem}`);
  return Object.freeze(task);
}

function findProblem(task: TaskDefinition): string | undefined {
  if (typeof task.name !== 'string' || task.name.length > 64 || !taskName.test(task.name)) {
    return 'name must be words of a-z, 0-9 and "-" joined by ".", at most 64 characters, for example "image.resize".';
  }
  if (!queueName.test(task.queue)) return `queue "${task.queue}" must be 1 to 63 of a-z, 0-9 and "-".`;
  if (!(task.attempts.default >= 1 && task.attempts.default <= task.attempts.max)) {
    return 'attempts.default must be between 1 and attempts.max.';
  }
  if (!(task.timeoutMs.default >= 1 && task.timeoutMs.default <= task.timeoutMs.max)) {
    return 'timeoutMs.default must be between 1 and timeoutMs.max.';
  }
  if (
    task.softTimeoutMs !== undefined &&
    !(task.softTimeoutMs >= 1 && task.softTimeoutMs <= task.timeoutMs.max)
  ) {
    return 'softTimeoutMs must be between 1 and timeoutMs.max.';
  }
  if (!isWithin(task.concurrencyPerKey, 1, 1_000)) return 'concurrencyPerKey must be 1 to 1000.';
  for (const field of ['rateLimit', 'rateLimitPerKey'] as const) {
    const rate = task[field];
    if (rate !== undefined && !(isWithin(rate.max, 1, 10_000) && isWithin(rate.perMs, 1, 86_400_000)))
      return `${field} must have a max of 1 to 10000 and a perMs of 1 to 86400000.`;
  }
  const example = task.input.safeParse(task.example);
  if (!example.success) return `example does not pass the input schema: ${z.prettifyError(example.error)}`;
  return undefined;
}

function isWithin(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}

/**
 * A file field of an input or an output: the id of a stored file. The platform checks that the file
 * exists and belongs to the caller, keeps it while the job is not final, and puts its bytes on disk before
 * the handler starts.
 */
export function fileRef() {
  // Upper case is the same id; what looks it up knows it in lower case only.
  return z
    .uuid()
    .toLowerCase()
    .meta({ format: 'uuid', [fileRefMark]: true });
}

/** The JSON Schema keyword by which the platform finds the file fields of a schema. */
export const fileRefMark = 'x-windlass-file';
