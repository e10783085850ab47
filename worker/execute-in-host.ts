/** Executes a job in a task host: inputs are put into the run's directory, the rest is the host's. */
import { join } from 'node:path';
import { crashPoint } from '#shared/crash-point.ts';
import type { Storage } from '#shared/storage/storage.ts';
import type { Disk } from './disk.ts';
import type { OutputStore } from './output-store.ts';
import type { Prepare } from './run-job.ts';
import { createSpareDirs } from './spare-dirs.ts';
import { createRunLine } from './run-line.ts';
import type { HostPool } from './task-host/host-pool.ts';

const clearMs = 10_000;

export function createPrepareInHost(options: {
  pool: HostPool;
  storage: Storage;
  outputStore: OutputStore;
  disk: Disk;
  /** The directories of runs are made in it. */
  dir: string;
}): Prepare {
  const { pool, storage, outputStore, disk } = options;
  const spareDirs = createSpareDirs({ disk, dir: options.dir });
  const line = createRunLine();

  return (job, task, run, turn) => {
    const dir = join(options.dir, run.name);
    const order = {
      jobId: job.id,
      tenantId: job.tenantId,
      task: job.task,
      handlerUrl: task.handlerUrl,
      attempt: job.attemptsUsed + 1,
      input: job.input,
      files: job.files.map((file) => ({ ...file, path: join(dir, file.id) })),
      limits: outputStore.limits,
      runDir: dir,
    };
    const place = line.join({ queue: job.queue, order, signal: run.signal, turn });
    const prepared = prepare();
    prepared.then(
      (missing) => missing.length === 0 && place.setReady(),
      // Whoever executes is told; a run that does not begin is not.
      () => {},
    );

    async function prepare(): Promise<string[]> {
      const inputs = job.files.map(({ id }) => ({ id, source: storage.linkSource(id) }));
      return disk.prepareRun({ dir, spare: spareDirs.take(job.tenantId), inputs });
    }

    /** What could not be linked is copied when the run has its slot: by then it is sure that somebody wants it. */
    async function complete(uid: number | undefined): Promise<void> {
      const missing = await prepared;
      const files = job.files.filter((file) => missing.includes(file.id));
      await Promise.all(files.map(({ id, sha256 }) => storage.materialize(id, join(dir, id), { sha256 })));
      if (uid !== undefined) await disk.handOver({ dir, uid });
    }

    async function remove(): Promise<void> {
      await prepared.catch(() => {});
      if (!(await spareDirs.keep(dir, job.tenantId))) await disk.removeTree(dir);
    }

    return {
      drop() {
        if (place.leave() !== undefined) return false;
        // Cleaning up is nobody's reason to wait.
        void remove();
        return true;
      },
      async execute(reports) {
        const io = {
          signal: run.signal,
          softSignal: run.softSignal,
          onProgress: reports.progress,
          onLog: reports.log,
        };
        const begun = place.leave();
        const host =
          begun?.host ??
          (await pool.acquire(job.tenantId).catch(async (err: unknown) => {
            await remove();
            throw err;
          }));
        const cleared = Promise.withResolvers<void>();
        const clear = async () => {
          const isKept = host.uid === undefined && (await spareDirs.keep(dir, job.tenantId));
          if (!isKept && !(await disk.removeTree(dir, { deadlineMs: clearMs }))) {
            // A host that still writes although its run has ended is not to be trusted with another one. When it is gone, nobody
            // adds to the directory any more; its user id is another host's only after that.
            pool.retire(host);
            await host.exited;
            await disk.removeTree(dir);
          }
          cleared.resolve();
        };
        try {
          if (begun === undefined) await complete(host.uid);
          crashPoint('run.during-task');
          const ended = begun === undefined ? host.run(order, io) : begun.follow(io);
          line.noteFollowed(host, job.queue);
          const end = await ended;
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
                  (end.type === 'returned' ? end.document : undefined) ?? (await outputStore.read(dir)),
                outDir: dir,
                signal: run.signal,
              }),
            dispose: clear,
          };
        } catch (err) {
          pool.release(host, cleared.promise);
          await clear();
          throw err;
        }
      },
    };
  };
}
