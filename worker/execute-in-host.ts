/** Executes a job in a task host: inputs are put into the run's directory, the rest is the host's. */
import { join } from 'node:path';
import { crashPoint } from '#shared/crash-point.ts';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import type { Storage } from '#shared/storage/storage.ts';
import type { Disk } from './disk.ts';
import type { OutputStore } from './output-store.ts';
import type { Execute } from './run-job.ts';
import type { TaskHost } from './task-host/host.ts';
import type { RunDir } from './task-host/run-files.ts';
import type { HostPool } from './task-host/host-pool.ts';

const clearMs = 10_000;

export function createExecuteInHost(options: {
  pool: HostPool;
  storage: Storage;
  outputStore: OutputStore;
  disk: Disk;
}): Execute {
  const { pool, storage, outputStore, disk } = options;

  /** A host that still writes although its run has ended is not to be trusted with another one. */
  async function clear(dir: string, host: TaskHost): Promise<void> {
    if (!(await disk.removeTree(dir, { deadlineMs: clearMs }))) pool.retire(host);
  }

  /** Makes the run's directory with its inputs in place. */
  async function prepare(job: ClaimedJob, name: string, host: TaskHost): Promise<RunDir> {
    const inputs = job.files.map(({ id }) => ({ id, source: storage.linkSource(id) }));
    const { runDir, missing } = await disk.prepareRun({ hostDir: host.dir, name, uid: host.uid, inputs });
    if (missing.length === 0) return runDir;
    const files = job.files.filter((file) => missing.includes(file.id));
    await Promise.all(
      files.map(({ id, sha256 }) => storage.materialize(id, join(runDir.inDir, id), { sha256 })),
    );
    await disk.handOver({ runDir, uid: host.uid });
    return runDir;
  }

  return async (job, task, run, reports) => {
    const host = await pool.acquire(job.tenantId);
    const cleared = Promise.withResolvers<void>();
    try {
      const runDir = await prepare(job, run.name, host);
      crashPoint('run.during-task');
      const end = await host.run(
        {
          type: 'run',
          jobId: job.id,
          tenantId: job.tenantId,
          task: job.task,
          handlerUrl: task.handlerUrl,
          attempt: job.attemptsUsed + 1,
          input: job.input,
          files: job.files.map((file) => ({ ...file, path: join(runDir.inDir, file.id) })),
          limits: outputStore.limits,
          runDir: runDir.dir,
        },
        { signal: run.signal, softSignal: run.softSignal, onProgress: reports.progress, onLog: reports.log },
      );
      // It may run the tenant's next job while the files of this one are stored.
      pool.release(host, cleared.promise);
      return {
        end,
        collect: async () =>
          outputStore.collect({
            run,
            definition: task.definition,
            inputFileIds: job.files.map((file) => file.id),
            returned:
              (end.type === 'returned' ? end.document : undefined) ?? (await outputStore.read(runDir.dir)),
            outDir: runDir.dir,
            signal: run.signal,
          }),
        async dispose() {
          await clear(runDir.dir, host);
          cleared.resolve();
        },
      };
    } catch (err) {
      pool.release(host, cleared.promise);
      await clear(join(host.dir, run.name), host);
      cleared.resolve();
      throw err;
    }
  };
}
