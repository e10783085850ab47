/**
 * One job, from its delivery to its end, as named steps:
 *
 *   claim ┊ execute → interpret ┊ store outputs → settle → announce
 *
 * At the first ┊ a job waits for its slot, if others of its bundle had the free ones. One that waits in vain goes back.
 * At the second one the handler has ended: the slot is free, while the rest waits for disks. The delivery has no meaning any more since the
 * claim was committed, and BullMQ may forget it; should this worker die now, the reaper finds the active row.
 *
 * Nothing before `settle` changes what a client sees except progress and logs, and `settle` is one guarded
 * transaction. A worker may die between any two steps; the crash points name them for the fault tests.
 */
import type { ClaimedJob, ClaimJobs, Delivery } from '#shared/db/claim-jobs.ts';
import type { RunEnd, SettleRuns, StoredOutput } from '#shared/db/settle-runs.ts';
import { isFinal, settle, type JobError, type JobState, type RunOutcome } from '#shared/domain/job.ts';
import { cleanText } from '#shared/domain/text.ts';
import { crashPoint } from '#shared/crash-point.ts';
import { AppError } from '#shared/errors.ts';
import type { Logger } from '#shared/log.ts';
import type { Turn } from '#shared/queue/consumer.ts';
import type { SignalPublisher } from '#shared/queue/signals.ts';
import { StoredFileMissingError } from '#shared/storage/storage.ts';
import type { LoadedTask } from '#shared/tasks/load-tasks.ts';
import type { JobReports } from './job-reports.ts';
import { createEndGroups } from './end-groups.ts';
import type { OutputStore } from './output-store.ts';
import type { HostEnd } from './task-host/host.ts';
import type { Run, Runs } from './runs.ts';
import { isOutage, throughOutages } from './through-outages.ts';

/** What executing a job gave: how the run ended, and on success the declared result. */
export interface Execution {
  readonly end: RunEnding;
  /** Reads the result and stores the output files. Only called after `returned`. */
  collect(): Promise<{ result: unknown; outputs: readonly StoredOutput[] }>;
  /** Cleans up; called when the outputs were stored. */
  dispose(): Promise<void>;
}

/** `waits`: for jobs that it has made. */
export type RunEnding = HostEnd | { readonly type: 'waits' };

export type Execute = (
  job: ClaimedJob,
  task: LoadedTask,
  run: Run,
  reports: JobReports,
) => Promise<Execution>;

/** A run whose inputs are put in place while it waits for its slot. It may begin before it is executed (`turn`). */
export interface Preparation {
  execute(reports: JobReports): Promise<Execution>;
  /** It shall not begin. @returns false when it has: then it is to be executed all the same, and ends as one that was stopped. */
  drop(): boolean;
}

export type Prepare = (job: ClaimedJob, task: LoadedTask, run: Run, turn: Turn) => Preparation;

export interface RunJobDeps {
  readonly claims: ClaimJobs;
  readonly settles: SettleRuns;
  readonly tasks: ReadonlyMap<string, LoadedTask>;
  readonly runs: Runs;
  readonly prepareInHost: Prepare;
  readonly executeInline: Execute;
  readonly createReports: (job: ClaimedJob) => JobReports;
  readonly outputStore: OutputStore;
  readonly signals: SignalPublisher;
  /** A job is queued again, or one with a concurrency key has ended or waits: others may have their turn. */
  readonly onFeedable: () => void;
  /** Runs that may be waiting for their group, storing and settling without holding a slot; further ones keep theirs until one has ended. */
  readonly endingMax: number;
  /** A job of this batch has ended. */
  readonly onBatchJobEnded: (batchId: string) => void;
  /** An item of this step has ended, or the step waits for its items from now on. */
  readonly onItemEnded: (eachId: string) => void;
  readonly log: Logger;
}

/** A handler that asks for less would run again and again without using an attempt. */
const snoozeMsMin = 1_000;
const snoozeMsMax = 7 * 86_400_000;

/** A run whose time limit is this near does not wait for others: storing its outputs counts as well. */
const hurryMs = 1_000;

/**
 * Resolves when the slot is free for another job. `runs` lists the run until its end was written.
 * `onClaimed` is told when the claim is decided: the delivery has no meaning any more. The run begins when `slot` is true, or
 * takes the place of one that has just ended (`turn`); when `slot` is false, its job is queued again without using an attempt.
 */
export type RunJob = (
  delivery: Delivery,
  onClaimed: () => void,
  slot: true | Promise<boolean>,
  turn: Turn,
) => Promise<void>;

export function createRunJob(deps: RunJobDeps): RunJob {
  let ending = 0;
  /** Slots that wait until fewer runs are ending. */
  const waiting: (() => void)[] = [];
  const endGroups = createEndGroups();

  return async (delivery, onClaimed, slot, turn) => {
    crashPoint('run.before-claim');
    const job = await deps.claims.add(delivery);
    onClaimed();
    if (job === undefined) return;
    crashPoint('run.after-claim');
    const task = deps.tasks.get(job.task);
    // The claim names the tasks that this worker knows.
    if (task === undefined) throw new Error(`Claimed a job of the unknown task "${job.task}".`);
    const run = deps.runs.start({
      jobId: job.id,
      fence: job.fence,
      workerId: job.workerId,
      task: job.task,
    });
    const preparation = prepare(deps, job, task, run, turn);
    if (slot === true || (await endGroups.standInLine(job.queue, slot))) deps.runs.countBegun(job.queue);
    else run.stop('no-slot');
    const executed = await endGroups.execute(job.queue, () => execute(deps, job, task, run, preparation));
    ending += 1;
    const canWait = executed.outcome?.type === 'succeeded' && executed.limitMs - performance.now() > hurryMs;
    void endGroups
      .join(job.queue, { canWait })
      .then(() => end(deps, executed))
      .catch((err: unknown) =>
        deps.log.error({ jobId: job.id, err }, 'the end of a run could not be written'),
      )
      .then(() => {
        deps.runs.end(run);
        ending -= 1;
        waiting.shift()?.();
      });
    if (ending > deps.endingMax) await new Promise<void>((resolve) => waiting.push(resolve));
  };
}

/** A run whose handler has ended. */
interface Executed {
  readonly job: ClaimedJob;
  readonly task: LoadedTask;
  readonly run: Run;
  readonly reports: JobReports;
  /** Undefined when it could not even begin. */
  readonly execution: Execution | undefined;
  /** Undefined when the job is another run's by now. */
  readonly outcome: RunOutcome | undefined;
  /** The time limit of the attempt, which goes on while outputs are stored. */
  readonly limit: NodeJS.Timeout;
  /** When that is over. */
  readonly limitMs: number;
}

function prepare(deps: RunJobDeps, job: ClaimedJob, task: LoadedTask, run: Run, turn: Turn): Preparation {
  if (task.definition.isolation === 'process') return deps.prepareInHost(job, task, run, turn);
  return {
    execute: (reports) => deps.executeInline(job, task, run, reports),
    drop: () => true,
  };
}

async function execute(
  deps: RunJobDeps,
  job: ClaimedJob,
  task: LoadedTask,
  run: Run,
  preparation: Preparation,
): Promise<Executed> {
  const { definition } = task;
  const reports = deps.createReports(job);
  const timeoutMs = job.options.timeoutMs ?? definition.timeoutMs.default;
  const limit = setTimeout(() => run.stop('timeout'), timeoutMs);
  const limitMs = performance.now() + timeoutMs;
  const softMs = job.options.softTimeoutMs ?? definition.softTimeoutMs;
  const soft = softMs === undefined ? undefined : setTimeout(() => run.warn(), softMs);
  const base = { job, task, run, reports, limit, limitMs };
  try {
    if (run.stopReason() !== undefined && preparation.drop()) {
      return { ...base, execution: undefined, outcome: interpret({ type: 'stopped' }, run) };
    }
    const execution = await preparation.execute(reports);
    return { ...base, execution, outcome: interpret(execution.end, run) };
  } catch (err) {
    return { ...base, execution: undefined, outcome: interpretFailure(deps, job, run, err) };
  } finally {
    clearTimeout(soft);
  }
}

async function end(deps: RunJobDeps, executed: Executed): Promise<void> {
  const { job, task, run, reports } = executed;
  const { outcome, outputs } = await storeOutputs(deps, executed);
  // The end of a success clears the progress.
  if (outcome?.type === 'succeeded') reports.dropProgress();
  await reports
    .flush()
    .catch((err: unknown) =>
      deps.log.warn({ jobId: job.id, err }, 'the last progress or log lines were lost'),
    );
  const state =
    outcome === undefined ? 'superseded' : await settleRun(deps, job, task, run, outcome, outputs);
  crashPoint('run.after-commit');
  if (job.hasKey || state === 'queued') deps.onFeedable();
  // Files of a run that may have been committed are left to the janitor, which decides by the record.
  if (state !== 'succeeded' && state !== 'unknown')
    await deps.outputStore.discard(outputs.map((output) => output.id));
  if (state !== 'superseded' && state !== 'unknown' && isFinal(state)) {
    deps.signals.ended([job.id]);
    if (job.batchId !== null) deps.onBatchJobEnded(job.batchId);
    if (job.eachId !== null) deps.onItemEnded(job.eachId);
  }
  // The last item may have ended before the step began to wait.
  if (state === 'blocked') deps.onItemEnded(job.id);
  logEnd(deps.log, job, run, state, outcome);
}

/** Never rejects: what goes wrong is the outcome. */
async function storeOutputs(
  deps: RunJobDeps,
  { job, run, execution, outcome, limit }: Executed,
): Promise<{ outcome: RunOutcome | undefined; outputs: readonly StoredOutput[] }> {
  try {
    if (outcome?.type !== 'succeeded' || execution === undefined) return { outcome, outputs: [] };
    const { result, outputs } = await execution.collect();
    crashPoint('run.after-output');
    return { outcome: { type: 'succeeded', result }, outputs };
  } catch (err) {
    return { outcome: interpretFailure(deps, job, run, err), outputs: [] };
  } finally {
    clearTimeout(limit);
    // Cleaning up is nobody's reason to wait.
    void execution?.dispose();
  }
}

/** A run that was told to stop may fail anywhere, for example because its files are no longer being stored. */
function interpretFailure(deps: RunJobDeps, job: ClaimedJob, run: Run, err: unknown): RunOutcome | undefined {
  return run.stopReason() === undefined
    ? { type: 'failed', error: describeFailure(err, deps.log, job) }
    : interpret({ type: 'stopped' }, run);
}

/** What the end of the process means for the job; undefined when the job is no longer ours to judge. */
function interpret(end: RunEnding, run: Run): RunOutcome | undefined {
  const reason = run.stopReason();
  if (reason === 'superseded') return undefined;
  switch (end.type) {
    case 'returned':
      return { type: 'succeeded', result: undefined };
    case 'waits':
      return { type: 'waiting' };
    case 'died':
      return { type: 'crashed', error: { code: 'crashed', message: end.description, retryable: true } };
    case 'stopped':
      if (reason === 'cancelled') return { type: 'cancelled' };
      if (reason === 'interrupted' || reason === 'no-slot') return { type: 'interrupted' };
      return {
        type: 'failed',
        error: {
          code: 'task-timeout',
          message: 'The task ran longer than its time limit and was stopped.',
          retryable: true,
        },
      };
    case 'threw':
      switch (end.kind) {
        case 'invalid-input':
          return { type: 'failed', error: { code: 'task-input', message: end.message, retryable: false } };
        case 'bad-output':
          return { type: 'failed', error: { code: 'task-output', message: end.message, retryable: false } };
        case 'effect-unknown':
          return {
            type: 'failed',
            error: { code: 'effect-unknown', message: end.message, retryable: false },
          };
        case 'not-now':
          return {
            type: 'snoozed',
            delayMs: Math.min(snoozeMsMax, Math.max(snoozeMsMin, end.delayMs ?? 1_000)),
            error: { code: 'task-not-now', message: end.message, retryable: true },
          };
        case 'error':
          return { type: 'failed', error: { code: 'task-failed', message: end.message, retryable: true } };
      }
  }
}

/** Failures on our side of the run: missing inputs, full disks, results over their limits. */
function describeFailure(err: unknown, log: Logger, job: ClaimedJob): JobError {
  if (err instanceof StoredFileMissingError)
    return { code: 'input-missing', message: err.message, retryable: false };
  if (err instanceof AppError) {
    const retryable = err.code === 'storage-full' || err.code === 'unavailable';
    return { code: err.code, message: cleanText(err.message, 2_000), retryable };
  }
  log.error({ jobId: job.id, err }, 'a run failed outside its handler');
  return {
    code: 'task-failed',
    message: 'The run failed on our side; the log of the worker has the reason.',
    retryable: true,
  };
}

/**
 * What was written. `superseded`: nothing, because another run owns the job by now. `unknown`: Postgres was away until
 * the worker had to stop.
 */
type Settled = JobState | 'superseded' | 'unknown';

/**
 * Commits the end of the run. While Postgres is away this waits: the fence makes trying again safe, and as long as
 * nobody can reap us the result is still wanted.
 */
async function settleRun(
  deps: RunJobDeps,
  job: ClaimedJob,
  task: LoadedTask,
  run: Run,
  outcome: RunOutcome,
  outputs: readonly StoredOutput[],
): Promise<Settled> {
  const { definition } = task;
  const policy = {
    attemptsUsed: job.attemptsUsed,
    attemptsMax: job.attemptsMax,
    crashes: job.crashes,
    crashesMax: definition.crashesMax,
    onCrash: definition.onCrash,
    backoff: job.options.backoff ?? definition.backoff,
    isCancelRequested: run.stopReason() === 'cancelled',
  };
  const key = { jobId: job.id, fence: job.fence, workerId: job.workerId };
  const result = outcome.type === 'succeeded' ? outcome.result : null;
  const end: RunEnd = { ...key, settlement: settle(outcome, policy), result, outputs };
  const isGivenUp = () => run.stopReason() === 'superseded' || run.stopReason() === 'interrupted';
  const write = (what: RunEnd) =>
    throughOutages(
      () => deps.settles.add(what),
      isGivenUp,
      (err, tries) => deps.log.warn({ ...key, err, tries }, 'the end of a run could not be written yet'),
    );
  crashPoint('run.before-commit');
  try {
    return (await write(end)) ?? 'superseded';
  } catch (err) {
    if (isOutage(err)) return 'unknown';
    deps.log.error({ ...key, err }, 'the end of a run was refused by the database');
  }
  // Postgres refuses what this run ended with, and would refuse it again and again: the job ends with that.
  const error = {
    code: 'task-output',
    message: 'The result of the task could not be stored.',
    retryable: false,
  };
  const refused: RunEnd = {
    ...key,
    settlement: settle({ type: 'failed', error }, policy),
    result: null,
    outputs: [],
  };
  try {
    return (await write(refused)) ?? 'superseded';
  } catch (err) {
    if (isOutage(err)) return 'unknown';
    throw err;
  }
}

function logEnd(
  log: Logger,
  job: ClaimedJob,
  run: Run,
  state: Settled,
  outcome: RunOutcome | undefined,
): void {
  const durationMs = Math.round(performance.now() - run.startedMs);
  const fields = {
    jobId: job.id,
    task: job.task,
    fence: job.fence,
    attempt: job.attemptsUsed + 1,
    durationMs,
  };
  if (state === 'superseded')
    log.warn({ ...fields, outcome: outcome?.type }, 'run superseded: nothing was committed');
  else if (state === 'unknown')
    log.warn({ ...fields, outcome: outcome?.type }, 'run given up: the database did not answer');
  else if (outcome !== undefined && 'error' in outcome)
    log.warn({ ...fields, state, code: outcome.error.code }, `job ${state}`);
  else log.info({ ...fields, state }, `job ${state}`);
}
