/**
 * Deletes what has expired and what nobody can reach: jobs and files past their retention, old idempotency keys and
 * ticks, pending outputs of runs that are over, bytes without a row, parts of broken uploads, scratch of dead workers.
 * Everything is done in small batches, and any number of workers may do it at once.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pruneBatches } from '#shared/db/batches.ts';
import { pruneIdempotencyKeys } from '#shared/db/idempotency.ts';
import type { Db } from '#shared/db/pool.ts';
import {
  deletePurgedJobs,
  listUnknownFiles,
  pruneFiles,
  prunePendingFiles,
  purgeJobs,
} from '#shared/db/retention.ts';
import { pruneTicks } from '#shared/db/schedule-ticks.ts';
import { pruneWorkflows } from '#shared/db/workflows.ts';
import { listLiveWorkers } from '#shared/db/workers.ts';
import { uuidv7 } from '#shared/ids.ts';
import type { Logger } from '#shared/log.ts';
import { orphanAgeMs, type Storage } from '#shared/storage/storage.ts';
import type { Disk } from '../disk.ts';
import { killOrphansOfDeadWorkers } from '../task-host/processes.ts';
import { createLoop, type Loop } from './loop.ts';

const everyMs = 60_000;
const batch = 500;
/** How long an emptied job still answers 410 instead of 404. */
const tombstoneMs = 7 * 86_400_000;
const sweepEveryMs = 15 * 60_000;
/** Scratch need not be kept for as long as an upload may take. */
const scratchAgeMsMax = 60_000;
const firstId = '00000000-0000-0000-0000-000000000000';

export interface Janitor extends Loop {
  /** Expired rows and their bytes. @returns how many of each were deleted. */
  prune(): Promise<{ jobs: number; files: number }>;
  /** Bytes, parts and directories that nothing refers to, older than `olderThanMs`. @returns how many were deleted. */
  sweep(olderThanMs: number): Promise<number>;
}

export function createJanitor(options: {
  db: Db;
  storage: Storage;
  disk: Pick<Disk, 'removeTree'>;
  scratchRoot: string;
  idempotencyMs: number;
  log: Logger;
}): Janitor {
  const { db, storage, disk, scratchRoot, idempotencyMs, log } = options;
  let nextSweepMs = 0;
  let batchesAfter = firstId;

  async function prune(): Promise<{ jobs: number; files: number }> {
    const total = { jobs: 0, files: 0 };
    for (;;) {
      const purged = await purgeJobs(db, batch);
      const tombstones = await deletePurgedJobs(db, tombstoneMs, batch);
      const uploads = await pruneFiles(db, batch);
      const pending = await prunePendingFiles(db, batch);
      const keys = await pruneIdempotencyKeys(db, idempotencyMs, batch);
      const ticks = await pruneTicks(db, batch);
      const workflows = await pruneWorkflows(db, batch);
      const fileIds = [...purged.fileIds, ...uploads, ...pending];
      await Promise.all(fileIds.map((id) => storage.delete(id)));
      total.jobs += purged.jobs;
      total.files += fileIds.length;
      if (
        purged.jobs < batch &&
        tombstones < batch &&
        uploads.length < batch &&
        pending.length < batch &&
        keys < batch &&
        ticks < batch &&
        workflows < batch
      )
        return total;
    }
  }

  async function sweep(olderThanMs: number): Promise<number> {
    // From here on in the time of this process. One whose clock is ahead would otherwise delete the bytes of an upload
    // that is being committed at this moment (faults.md, F57).
    const ageMs = olderThanMs + (await measureLead());
    let deleted = await storage.sweepParts(ageMs);
    let candidates: string[] = [];
    const check = async () => {
      for (const id of await listUnknownFiles(db, candidates)) {
        await storage.delete(id);
        deleted += 1;
      }
      candidates = [];
    };
    const before = Date.now() - ageMs;
    for await (const { id, modifiedAt } of storage.list()) {
      if (modifiedAt.getTime() > before) continue;
      candidates.push(id);
      if (candidates.length >= batch) await check();
    }
    await check();
    deleted += await sweepScratch(ageMs - Math.max(0, olderThanMs - scratchAgeMsMax));
    return deleted + killOrphansOfDeadWorkers();
  }

  /** How far this process's clock is ahead of the one that stamps stored files, in ms: a file of now tells. */
  async function measureLead(): Promise<number> {
    const id = uuidv7();
    await storage.put(id, Readable.from([]), { sizeBytesMax: 0 });
    try {
      return Date.now() - (await storage.stat(id)).modifiedAt.getTime();
    } finally {
      await storage.delete(id);
    }
  }

  /** Directories of workers that are no longer alive. A worker makes its directory before its row: hence the age. */
  async function sweepScratch(ageMs: number): Promise<number> {
    const live = new Set(await listLiveWorkers(db));
    let deleted = 0;
    for (const name of await readdir(scratchRoot).catch(() => [])) {
      const path = join(scratchRoot, name);
      const age = await stat(path).then(
        (entry) => Date.now() - entry.mtimeMs,
        () => 0,
      );
      if (live.has(name) || age < ageMs) continue;
      await disk.removeTree(path, { isAbandoned: true });
      deleted += 1;
    }
    return deleted;
  }

  async function runOnce(): Promise<number> {
    const pruned = await prune();
    if (pruned.jobs + pruned.files > 0) log.info(pruned, 'expired jobs and files were deleted');
    // Some each minute, in turn. A batch is kept as long as its Idempotency-Key at least, which answers from it.
    const kept = { keptMs: Math.max(idempotencyMs, 86_400_000), limit: batch };
    batchesAfter = (await pruneBatches(db, { after: batchesAfter, ...kept })) ?? firstId;
    if (performance.now() >= nextSweepMs) {
      const swept = await sweep(orphanAgeMs);
      nextSweepMs = performance.now() + sweepEveryMs;
      if (swept > 0) log.info({ swept }, 'orphans were deleted');
    }
    return everyMs;
  }

  return { ...createLoop({ name: 'janitor', runOnce, log }), prune, sweep };
}
