/**
 * Executes a job inside the worker: for trusted handlers that only wait, like e-mail. They get services that a task
 * host has not (the effect ledger, memory, settings), and the same context otherwise. A handler that ignores its
 * AbortSignal cannot be killed here; it is abandoned, and its late end changes nothing.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { beginEffect, clearEffect, finishEffect } from '#shared/db/effects.ts';
import { readMemory, writeMemory } from '#shared/db/task-memory.ts';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import type { Db } from '#shared/db/pool.ts';
import { crashPoint } from '#shared/crash-point.ts';
import type { Storage } from '#shared/storage/storage.ts';
import type { InlineTaskContext, InputFile, TaskContext } from '#shared/tasks/task-context.ts';
import { EffectUnknownError } from '#shared/tasks/task-errors.ts';
import type { CreateBulkStep } from './bulk-step.ts';
import type { CreateEachStep, EachStep } from './each-step.ts';
import type { HostEnd } from './task-host/host.ts';
import { runHandler, type HandlerEnd } from './task-host/run-handler.ts';
import type { Disk } from './disk.ts';
import type { OutputStore } from './output-store.ts';
import type { Execute, RunEnding } from './run-job.ts';

const abandonAfterMs = 2_500;
const bulkTask = 'jobs.bulk';
const eachTask = 'workflow.each';

export function createExecuteInline(options: {
  db: Db;
  storage: Storage;
  outputStore: OutputStore;
  /** Directories of runs are made in it, only for those that need one. */
  dir: string;
  disk: Disk;
  settings: Readonly<Record<string, unknown>>;
  createBulkStep: CreateBulkStep;
  createEachStep: CreateEachStep;
}): Execute {
  const { db, storage, outputStore, dir, disk, settings, createBulkStep, createEachStep } = options;
  return async (job, task, run, reports) => {
    const runDir = join(dir, run.name);
    const outDir = join(runDir, 'out');
    let hasDir = false;
    const need = (path: string): string => {
      mkdirSync(path, { recursive: true });
      hasDir = true;
      return path;
    };
    const files: InputFile[] = [];
    try {
      for (const file of job.files) {
        const path = join(need(join(runDir, 'in')), file.id);
        await storage.materialize(file.id, path, { sha256: file.sha256 });
        files.push({ ...file, path });
      }
    } catch (err) {
      if (hasDir) await disk.removeTree(runDir);
      throw err;
    }
    crashPoint('run.during-task');
    // Only of our own tasks, which have no handler elsewhere.
    const isOurs = (name: string) => task.definition.name === name && task.handlerUrl === undefined;
    const each = isOurs(eachTask) ? createEachStep(job, run.signal) : undefined;
    const finished = runHandler(
      {
        jobId: job.id,
        tenantId: job.tenantId,
        task: job.task,
        handlerUrl: task.handlerUrl,
        attempt: job.attemptsUsed + 1,
        input: job.input,
        files,
        limits: outputStore.limits,
      },
      {
        signal: run.signal,
        softSignal: run.softSignal,
        progress: reports.progress,
        log: reports.log,
        scratchDir: () => need(join(runDir, 'tmp')),
        outputPath: (id) => join(need(outDir), id),
        services: {
          ...createServices(db, job, settings),
          ...(isOurs(bulkTask) && { bulkStep: createBulkStep(job, run.signal) }),
          ...(each !== undefined && { eachStep: each.step }),
        },
      },
    );
    const ended = await Promise.race([finished, abandonedAfterAbort(run.signal)]);
    return {
      end: toEnding(ended, run.signal.aborted, each),
      collect: async () => {
        const verdict = each?.verdict();
        if (verdict?.type === 'failed') throw verdict.error;
        if (ended?.type !== 'returned') throw new Error('There is no result to collect.');
        return outputStore.collect({
          run,
          definition: task.definition,
          inputFileIds: job.files.map((file) => file.id),
          returned: ended,
          outDir,
          signal: run.signal,
        });
      },
      async dispose() {
        if (hasDir) await disk.removeTree(runDir);
      },
    };
  };
}

/** Resolves to undefined some time after the run was told to stop. */
function abandonedAfterAbort(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    const abandon = () => void setTimeout(() => resolve(undefined), abandonAfterMs).unref();
    if (signal.aborted) abandon();
    else signal.addEventListener('abort', abandon, { once: true });
  });
}

/** A step that waits, or has failed, says so itself; the failure is thrown when its result is collected. */
function toEnding(ended: HandlerEnd | undefined, isAborted: boolean, each: EachStep | undefined): RunEnding {
  const verdict = isAborted ? undefined : each?.verdict();
  if (verdict === undefined) return toHostEnd(ended, isAborted);
  return { type: verdict.type === 'waits' ? 'waits' : 'returned' };
}

function toHostEnd(ended: HandlerEnd | undefined, isAborted: boolean): HostEnd {
  if (ended?.type === 'returned') return { type: 'returned' };
  if (ended === undefined || isAborted) return { type: 'stopped' };
  return { type: 'threw', kind: ended.kind, message: ended.message, delayMs: ended.delayMs };
}

function createServices(
  db: Db,
  job: ClaimedJob,
  settings: Readonly<Record<string, unknown>>,
): Omit<InlineTaskContext, keyof TaskContext> {
  return {
    settings,
    async effect(key, { onUnknown, isNotDone }, action) {
      const effect = { jobId: job.id, tenantId: job.tenantId, key };
      const state = await beginEffect(db, effect);
      // What was recorded is what an earlier `action` of this very call returned.
      if (state.type === 'finished') return state.value as Awaited<ReturnType<typeof action>>;
      if (state.type === 'begun-before' && onUnknown === 'fail') {
        throw new EffectUnknownError(
          `An earlier run began "${key}" and ended before it could record what came of it. It may have taken place, so it is not repeated.`,
        );
      }
      try {
        const value = await action();
        crashPoint('run.after-effect');
        await finishEffect(db, { ...effect, value });
        return value;
      } catch (err) {
        if (isNotDone(err)) await clearEffect(db, effect);
        throw err;
      }
    },
    memory: {
      get: (key) => readMemory(db, { tenantId: job.tenantId, task: job.task, key }),
      set: (key, value) => writeMemory(db, { tenantId: job.tenantId, task: job.task, key }, value),
    },
  };
}
