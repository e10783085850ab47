/**
 * Workers and their leases. A worker's row says "I live until"; it is renewed every second by the parent process,
 * never by the process that runs a task. The answer to a renewal names the runs that the worker no longer owns and
 * those whose cancel was asked for. A worker that is silent for the whole lease is dead: the reaper says so in its
 * row, and moves its jobs on. Should it wake up later, its renewals and claims find a reaped row, its
 * settlements find other fences.
 */
import { settle, type JobError, type JobState } from '../domain/job.ts';
import { unsynced, type Db, type Queryable } from './pool.ts';
import { settleRuns, type RunEnd } from './settle-runs.ts';
import type { JobOptions } from './claim-jobs.ts';

export interface WorkerRow {
  readonly id: string;
  readonly host: string;
  readonly pid: number;
  readonly version: string;
  /** Jobs at once, per queue. */
  readonly slots: Readonly<Record<string, number>>;
  /** Do its task hosts run under user ids of their own, or only as processes of their own? */
  readonly isolation: 'user' | 'process';
}

export async function registerWorker(db: Queryable, worker: WorkerRow, leaseMs: number): Promise<void> {
  await db.query(
    `INSERT INTO workers (id, host, pid, version, slots, isolation, lease_until)
     VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 ms')`,
    [
      worker.id,
      worker.host,
      worker.pid,
      worker.version,
      JSON.stringify(worker.slots),
      worker.isolation,
      leaseMs,
    ],
  );
}

export interface RunKey {
  readonly jobId: string;
  readonly fence: number;
}

/** A run as the record knows it. A crash of Postgres can forget a claim, and the next one gets the same fence (claim-jobs.ts). */
export interface OwnedRun extends RunKey {
  readonly workerId: string;
}

export interface Renewal {
  /** False: the reaper declared this worker dead. Everything it runs belongs to others by now. */
  readonly isAlive: boolean;
  /** It was told to take nothing new. */
  readonly isQuiet: boolean;
  /** Runs that were taken away from this worker. */
  readonly superseded: readonly RunKey[];
  /** Runs whose cancel was asked for. */
  readonly cancelled: readonly RunKey[];
  /** When the database answered, by its clock. */
  readonly at: Date;
  /** Rows that are active under this worker's name without the worker knowing (the answer to a claim was lost). */
  readonly unknown: readonly RunKey[];
}

// A renewal that a crash of Postgres forgot is repeated within a second, and nobody is judged for a whole lease after it.
const renewSql = `
WITH ${unsynced}, renewed AS (
  UPDATE workers SET lease_until = now() + $2 * interval '1 ms', renewed_at = now(), drain = $3, memory_bytes = $4
  FROM unsynced WHERE id = $1 AND reaped_at IS NULL RETURNING id, quiet_at
), mine AS (
  SELECT * FROM unnest($5::uuid[], $6::bigint[]) AS m(id, fence)
)
SELECT (SELECT count(*) FROM renewed) = 1 AS is_alive,
  EXISTS (SELECT 1 FROM renewed WHERE quiet_at IS NOT NULL) AS is_quiet, now() AS at,
  coalesce((SELECT json_agg(json_build_object('jobId', m.id, 'fence', m.fence)) FROM mine m
    LEFT JOIN jobs j ON j.id = m.id AND j.fence = m.fence AND j.state = 'active' AND j.worker_id = $1
    WHERE j.id IS NULL), '[]') AS superseded,
  coalesce((SELECT json_agg(json_build_object('jobId', m.id, 'fence', m.fence)) FROM mine m
    JOIN jobs j ON j.id = m.id AND j.fence = m.fence AND j.state = 'active' WHERE j.cancel_requested_at IS NOT NULL), '[]') AS cancelled,
  coalesce((SELECT json_agg(json_build_object('jobId', j.id, 'fence', j.fence)) FROM jobs j
    LEFT JOIN mine m ON m.id = j.id AND m.fence = j.fence
    WHERE j.worker_id = $1 AND j.state = 'active' AND m.id IS NULL AND j.started_at < now() - interval '3 s'), '[]') AS unknown`;

export async function renewLease(
  db: Queryable,
  worker: {
    id: string;
    leaseMs: number;
    drain: Readonly<Record<string, number>>;
    memoryBytes: number;
    runs: readonly RunKey[];
  },
): Promise<Renewal> {
  const { rows } = await db.query<{
    is_alive: boolean;
    is_quiet: boolean;
    at: Date;
    superseded: RunKey[];
    cancelled: RunKey[];
    unknown: RunKey[];
  }>({
    name: 'renew-lease',
    text: renewSql,
    values: [
      worker.id,
      worker.leaseMs,
      JSON.stringify(worker.drain),
      worker.memoryBytes,
      worker.runs.map((run) => run.jobId),
      worker.runs.map((run) => run.fence),
    ],
  });
  const row = rows[0];
  if (row === undefined) throw new Error('The renewal of a lease answered no row.');
  return {
    isAlive: row.is_alive,
    isQuiet: row.is_quiet,
    at: row.at,
    superseded: row.superseded,
    cancelled: row.cancelled,
    unknown: row.unknown,
  };
}

/**
 * Jobs that are active under this worker's name but were never started, because the answer to their claim was lost: queued
 * again, without using an attempt.
 */
export async function handBackRuns(db: Db, keys: readonly OwnedRun[]): Promise<void> {
  const { rows } = await db.query<{ id: string; attempts_used: number; crashes: number }>(
    'SELECT id, attempts_used, crashes FROM jobs WHERE id = ANY($1)',
    [keys.map((key) => key.jobId)],
  );
  const rowOf = new Map(rows.map((row) => [row.id, row]));
  await settleRuns(
    db,
    keys.flatMap((key) => {
      const row = rowOf.get(key.jobId);
      if (row === undefined) return [];
      const settlement = {
        state: 'queued',
        attemptsUsed: row.attempts_used,
        crashes: row.crashes,
        delayMs: 0,
        error: undefined,
        outcome: 'interrupted',
      } as const;
      return [{ ...key, settlement, result: null, outputs: [] }];
    }),
  );
}

/** A worker that leaves in order: its lease ends now, so nobody waits for it. */
export async function removeWorker(db: Queryable, id: string): Promise<void> {
  await db.query('DELETE FROM workers WHERE id = $1', [id]);
}

/** What the reaper must know of a task to judge a crash; undefined for tasks that this worker does not know. */
export type CrashPolicy = (
  task: string,
) => { crashesMax: number; onCrash: 'retry' | 'fail'; backoff: Required<JobOptions>['backoff'] } | undefined;

interface StrandedRow {
  id: string;
  fence: number;
  worker_id: string;
  task: string;
  options: JobOptions;
  attempts_used: number;
  attempts_max: number;
  crashes: number;
  cancel_requested: boolean;
}

/**
 * Declares silent workers dead and moves on what they were running. Safe to run anywhere at the same time: each job
 * is settled under its fence.
 * @param deadBefore leases that ended before this time are over (LeaseKeeper.deadBefore says which time may be given). Not
 *   simply now: Postgres may execute this statement, or anything else, much later than it was sent.
 * @returns the jobs that were moved, with their new states.
 */
export async function reapDeadWorkers(
  db: Db,
  policyOf: CrashPolicy,
  deadBefore: Date,
): Promise<{ jobId: string; state: JobState }[]> {
  await db.query('UPDATE workers SET reaped_at = now() WHERE reaped_at IS NULL AND lease_until < $1', [
    deadBefore,
  ]);
  // Also finds runs whose worker's row is gone, so that no order of events can strand a job.
  const { rows } = await db.query<StrandedRow>(
    `SELECT j.id, j.fence, j.worker_id, j.task, j.options, j.attempts_used, j.attempts_max, j.crashes,
       j.cancel_requested_at IS NOT NULL AS cancel_requested
     FROM jobs j WHERE j.state = 'active' AND NOT EXISTS
       (SELECT 1 FROM workers w WHERE w.id = j.worker_id AND w.reaped_at IS NULL)
     LIMIT 500`,
  );
  if (rows.length === 0) return [];
  const error: JobError = {
    code: 'crashed',
    message: 'The worker that ran the job died or was cut off.',
    retryable: true,
  };
  const ends: RunEnd[] = rows.map((row) => {
    const policy = policyOf(row.task) ?? {
      crashesMax: 3,
      onCrash: 'retry',
      backoff: { type: 'exponential', delayMs: 1_000, maxMs: 60_000 },
    };
    const settlement = settle(
      { type: 'crashed', error },
      {
        attemptsUsed: row.attempts_used,
        attemptsMax: row.attempts_max,
        crashes: row.crashes,
        crashesMax: policy.crashesMax,
        onCrash: policy.onCrash,
        backoff: row.options.backoff ?? policy.backoff,
        isCancelRequested: row.cancel_requested,
      },
    );
    return {
      jobId: row.id,
      fence: row.fence,
      workerId: row.worker_id,
      settlement,
      result: null,
      outputs: [],
    };
  });
  const states = await settleRuns(db, ends);
  return rows.flatMap((row, index) => {
    const state = states[index];
    return state === undefined ? [] : [{ jobId: row.id, state }];
  });
}

/** Forgets workers that have been dead for a day. */
export async function pruneWorkers(db: Queryable): Promise<number> {
  const { rowCount } = await db.query(`DELETE FROM workers WHERE reaped_at < now() - interval '1 day'`);
  return rowCount ?? 0;
}

/** Ids of workers that are not known to be dead. */
export async function listLiveWorkers(db: Queryable): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>('SELECT id FROM workers WHERE reaped_at IS NULL');
  return rows.map((row) => row.id);
}

/** Live workers, and how many of them keep task hosts apart by process only. */
export async function countLiveWorkers(
  db: Queryable,
): Promise<{ live: number; withoutUserIsolation: number }> {
  const { rows } = await db.query<{ live: number; without: number }>(
    `SELECT count(*) AS live, count(*) FILTER (WHERE isolation <> 'user') AS without
     FROM workers WHERE reaped_at IS NULL AND lease_until > now()`,
  );
  return { live: rows[0]?.live ?? 0, withoutUserIsolation: rows[0]?.without ?? 0 };
}
