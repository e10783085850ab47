/** Executes a job in a task host: inputs are put into the run's directory, the rest is the host's. */
import { join } from 'node:path';
import { crashPoint } from '#shared/crash-point.ts';
import type { Storage } from '#shared/storage/storage.ts';
import type { Disk, RunDir } from './disk.ts';
import type { OutputStore } from './output-store.ts';
import type { Execute } from './run-job.ts';
import type { TaskHost } from './task-host/host.ts';
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
  async function clear(runDir: RunDir, host: TaskHost): Promise<void> {
    if (!(await disk.removeTree(runDir.dir, { deadlineMs: clearMs }))) pool.retire(host);
  }

  return async (job, task, run, reports) => {
    const host = await pool.acquire(job.tenantId);
    const cleared = Promise.withResolvers<void>();
    let dir: RunDir | undefined;
    try {
      const runDir = await disk.makeRunDir({ hostDir: host.dir, name: run.name });
      dir = runDir;
      const files = await Promise.all(
        job.files.map(async (file) => {
          const path = join(runDir.inDir, file.id);
          await storage.materialize(file.id, path, { sha256: file.sha256 });
          return { ...file, path };
        }),
      );
      await disk.handOver({ runDir, uid: host.uid });
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
          files,
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
            returned: await outputStore.read(runDir.dir),
            outDir: runDir.outDir,
            signal: run.signal,
          }),
        async dispose() {
          await clear(runDir, host);
          cleared.resolve();
        },
      };
    } catch (err) {
      pool.release(host, cleared.promise);
      if (dir !== undefined) await clear(dir, host);
      cleared.resolve();
      throw err;
    }
  };
}
