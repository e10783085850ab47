/**
 * What the handler of `workflow.each` reaches of the database: the jobs of the items of its own step, in its own tenant. How the step
 * goes on without it (it waits, or has failed) is not the handler's business: it is kept for the worker, and the handler ends.
 */
import { crashPoint } from '#shared/crash-point.ts';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import {
  lookAtItems,
  makeItems,
  openEachRun,
  readItemResults,
  sumItemInputs,
  type EachPosition,
  type EndedItems,
  type NewItem,
} from '#shared/db/each-runs.ts';
import type { Db } from '#shared/db/pool.ts';
import {
  createItemInput,
  findExcess,
  forEachInputBytesMax,
  forEachItemsMax,
  tooManyBytes,
} from '#shared/domain/for-each.ts';
import type { JobError } from '#shared/domain/job.ts';
import { toPointer } from '#shared/domain/json-pointer.ts';
import { cleanText } from '#shared/domain/text.ts';
import { AppError } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { createFileRefFinder } from '#shared/tasks/file-refs.ts';
import { jobOptions } from '#shared/tasks/job-options.ts';
import type { LoadedTask } from '#shared/tasks/load-tasks.ts';
import { toNewJob } from '#shared/tasks/new-job.ts';
import type { EachRequest, EachTaskContext } from '#shared/tasks/task-context.ts';
import { NotNowError } from '#shared/tasks/task-errors.ts';
import { throughOutages } from './through-outages.ts';

/** Rows in one transaction, and bytes of their inputs. */
const pageItems = 500;
const pageBytes = 2 * 1024 * 1024;
/** As for jobs of any task that only a newer worker knows. */
const unknownTaskMs = 5_000;
const backlogFullMs = 5_000;

export interface EachStep {
  readonly step: EachTaskContext['eachStep'];
  /** How the step goes on, when `step` threw. */
  verdict(): EachVerdict | undefined;
}

export type EachVerdict =
  /** Until its items have ended. */
  { readonly type: 'waits' } | { readonly type: 'failed'; readonly error: AppError };

export type CreateEachStep = (job: ClaimedJob, signal: AbortSignal) => EachStep;

export function createEachSteps(options: {
  db: Db;
  tasks: ReadonlyMap<string, LoadedTask>;
  resultBytesMax: number;
  /** Of jobs whose options and task name none, in ms. */
  retentionMs: number;
  /** While so many wait that no job is accepted, none is made here. */
  isBacklogFull: () => Promise<boolean>;
  /** Jobs are queued: the feeder need not sleep. */
  onQueued: () => void;
}): CreateEachStep {
  const { db, tasks, resultBytesMax, isBacklogFull, onQueued } = options;

  return (job, signal) => {
    const { tenantId, id: jobId } = job;
    let at: EachPosition | undefined;
    let verdict: EachVerdict | undefined;
    let counted: { until: number; bytes: number } | undefined;
    const startedMs = Date.now();
    let make: ((index: number) => NewItem) | undefined;

    function stop(given: EachVerdict): Error {
      verdict = given;
      return given.type === 'failed' ? given.error : new Error('The step waits for its items.');
    }
    function fail(
      code: 'task-input' | 'too-many-items' | 'item-failed' | 'result-too-large',
      message: string,
    ): Error {
      return stop({ type: 'failed', error: new AppError(code, message) });
    }

    async function step(request: EachRequest): ReturnType<EachTaskContext['eachStep']> {
      signal.throwIfAborted();
      const { items } = request;
      if (!Array.isArray(items))
        throw fail('task-input', `forEach takes a list, and what it was given is ${describe(items)}.`);
      if (items.length > forEachItemsMax)
        throw fail(
          'too-many-items',
          `The list has ${items.length} items; ${forEachItemsMax} is the most (forEachItemsMax).`,
        );
      at ??= await openEachRun(db, tenantId, jobId);
      if (at.total === null || at.nextIndex < items.length) {
        if (await isBacklogFull())
          throw new NotNowError('Too many jobs wait. It goes on when there are fewer.', {
            delayMs: backlogFullMs,
          });
        make ??= createMakeItem(request, items);
        // What earlier runs have made counts as well.
        counted ??= { until: at.nextIndex, bytes: await sumItemInputs(db, tenantId, jobId) };
        at = await makeItems(
          db,
          {
            jobId,
            tenantId,
            fence: job.fence,
            workerId: job.workerId,
            previous: request.previous,
            total: items.length,
            items: takePage(make, counted, at.nextIndex, items.length),
          },
          at,
        );
        crashPoint('each.after-commit');
        onQueued();
        return { type: 'making', made: at.nextIndex, total: items.length };
      }
      const ended = await lookAtItems(db, tenantId, jobId);
      if (ended.isOpen) throw stop({ type: 'waits' });
      crashPoint('each.before-collect');
      if (ended.unsuccessful > 0 && !request.optionalItems)
        throw fail('item-failed', describeFailures(ended, items.length));
      if (ended.resultBytes > resultBytesMax)
        throw fail(
          'result-too-large',
          `The results of the ${items.length} items are larger than ${resultBytesMax} bytes together (WINDLASS_RESULT_BYTES_MAX).`,
        );
      return { type: 'ended', results: await readItemResults(db, tenantId, jobId) };
    }

    /** As many of the next items as one transaction takes. */
    function takePage(
      makeItem: (index: number) => NewItem,
      inputs: { until: number; bytes: number },
      from: number,
      total: number,
    ): NewItem[] {
      const page: NewItem[] = [];
      for (
        let index = from, bytes = 0;
        index < total && page.length < pageItems && bytes < pageBytes;
        index += 1
      ) {
        const item = makeItem(index);
        const size = Buffer.byteLength(JSON.stringify(item.job.input));
        bytes += size;
        // A page that is made again after an outage counts once.
        if (index >= inputs.until) {
          inputs.until = index + 1;
          inputs.bytes += size;
        }
        if (inputs.bytes > forEachInputBytesMax) throw fail('task-input', tooManyBytes);
        page.push(item);
      }
      return page;
    }

    function createMakeItem(request: EachRequest, items: readonly unknown[]): (index: number) => NewItem {
      const task = tasks.get(request.task);
      if (task === undefined || task.definition.isInternal === true)
        throw new NotNowError(`This worker does not know the task "${request.task}".`, {
          delayMs: unknownTaskMs,
        });
      const { definition } = task;
      const given = jobOptions.safeParse(request.options);
      if (!given.success) throw fail('task-input', 'The options of the step would not be accepted today.');
      const excess = findExcess(request.input, request.places, items);
      if (excess !== undefined) throw fail('task-input', excess);
      const itemInput = createItemInput(request.input, request.places);
      const findFiles = createFileRefFinder(definition.input, 'input');
      return (index) => {
        const input = itemInput(items[index], index);
        const misfit = findMisfit(definition.input.safeParse(input));
        const made = toNewJob(definition, {
          tenantId,
          input,
          options: given.data,
          inputFiles: misfit === undefined ? findFiles(input).map((file) => file.id) : [],
          retentionMs: options.retentionMs,
        });
        return {
          index,
          misfit,
          job: {
            ...made,
            // Ids grow with the numbers of the items, so they run in the order of the list.
            id: uuidv7(startedMs - (items.length - 1 - index)),
            traceparent: job.traceparent,
            workflow: request.workflow,
            item: { eachId: jobId, index },
            // No key of a client holds a control character.
            ...(request.limit !== null && {
              concurrency: { key: `\u0001${jobId}`, max: request.limit },
            }),
          },
        };
      };
    }
    return {
      step: (request) =>
        throughOutages(
          () => step(request),
          () => signal.aborted,
        ),
      verdict: () => verdict,
    };
  };
}

function findMisfit(
  parsed: ReturnType<LoadedTask['definition']['input']['safeParse']>,
): JobError | undefined {
  if (parsed.success) return undefined;
  const [issue] = parsed.error.issues;
  return {
    code: 'task-input',
    message: cleanText(
      `The input does not fit the task: at "${toPointer(issue?.path ?? [])}", ${issue?.message ?? 'unknown'}`,
      2_000,
    ),
    retryable: false,
  };
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

function describeFailures({ unsuccessful, first }: EndedItems, total: number): string {
  const why =
    first === undefined || first.state === null
      ? 'its job was deleted'
      : first.error === null
        ? `it was ${first.state === 'failed' ? 'failed' : 'cancelled'}`
        : `${first.error.code}: ${first.error.message}`;
  return cleanText(
    `${unsuccessful} of ${total} items did not succeed. The first is item ${first?.index} (job ${first?.jobId}): ${why}`,
    2_000,
  );
}
