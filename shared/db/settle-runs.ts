/**
 * Settling: the one statement that ends runs. Result, output files, attempt, event and the job's next state are
 * committed together, and only for a row that is still `active` with the run's own fence and worker. Jobs that waited for it are moved on in
 * the same transaction, by a trigger (dependencies.ts). A run that was
 * superseded in the meantime (a zombie) updates zero rows and is told so.
 */
import { isFinal, type JobState, type Settlement } from '../domain/job.ts';
import type { PendingFile } from './announce-files.ts';
import { jsonArray, plainArray } from './array-literal.ts';
import { createGroupCommit, type GroupCommit } from './group-commit.ts';
import { AmbiguousCommitError, type Db } from './pool.ts';

export interface RunEnd {
  readonly jobId: string;
  readonly fence: number;
  /** Whose run it is, or was. */
  readonly workerId: string;
  readonly settlement: Settlement;
  readonly result: unknown;
  readonly outputs: readonly StoredOutput[];
}

/** An output file whose bytes are stored and whose `pending` row waits to become visible. */
export interface StoredOutput extends PendingFile {
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

/** The state that was written; undefined when the run was superseded and nothing was. */
export type SettleRuns = GroupCommit<RunEnd, JobState | undefined>;

/** @param onRelease jobs ended that others wait for: some of those may be ready to run. */
export function createSettleRuns(db: Db, onRelease: () => void = () => {}): SettleRuns {
  return createGroupCommit<RunEnd, JobState | undefined>({
    async flush(runs) {
      const states = await settleRuns(db, runs, onRelease);
      // What was not written is superseded, or was written by an earlier try whose answer was lost.
      const earlier = await findSettled(
        db,
        runs.filter((_, index) => states[index] === undefined),
      );
      return runs.map((run, index) => states[index] ?? earlier.get(keyOf(run)));
    },
    recover: (run, err) => recover(db, run, err),
  });
}

function keyOf({ jobId, fence }: { jobId: string; fence: number }): string {
  return `${jobId}/${fence}`;
}

// One pass: the rows are found by their key in the order of the items, which is the order of ids, locked and updated;
// `old` gives what the update takes away. A cancel that arrived after the worker decided to run the job again still
// ends it: `j` is the row as it is when the lock is held. `IS TRUE` keeps the planner from reading all active jobs for each of the
// group instead. Output files are rare, and a statement without that part
// costs a fifth less. Announcements are not synced: of those that Postgres forgot in a crash the row is written anew, since the run goes on
// (within the hour after which bytes without a row are swept).
const settleSql = ({ withOutputs }: { withOutputs: boolean }) => `
WITH ended AS (
  UPDATE jobs j SET
    state = CASE WHEN i.state IN ('retrying', 'queued', 'blocked') AND j.cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE i.state END,
    worker_id = NULL, result = i.result, error = i.error, attempts_used = i.attempts_used, crashes = i.crashes,
    run_at = CASE WHEN i.state = 'retrying' AND j.cancel_requested_at IS NULL
      THEN now() + i.delay_ms * interval '1 ms' ELSE j.run_at END,
    rank_at = CASE WHEN i.state = 'retrying' AND j.cancel_requested_at IS NULL
      THEN now() + i.delay_ms * interval '1 ms' - j.priority * interval '60 s' ELSE j.rank_at END,
    started_at = CASE WHEN i.state = 'queued' AND j.cancel_requested_at IS NULL THEN NULL ELSE j.started_at END,
    finished_at = CASE WHEN i.state IN ('succeeded', 'failed', 'cancelled') OR j.cancel_requested_at IS NOT NULL
      THEN now() END,
    expires_at = CASE WHEN i.state IN ('succeeded', 'failed', 'cancelled') OR j.cancel_requested_at IS NOT NULL
      THEN now() + j.retention_ms * interval '1 ms' END,
    progress = CASE WHEN i.state = 'succeeded' THEN NULL ELSE j.progress END
  FROM unnest($1::uuid[], $2::bigint[], $3::job_state[], $4::json[], $5::jsonb[], $6::bigint[], $7::integer[],
      $8::integer[], $9::text[], $10::uuid[]${withOutputs ? ', $11::jsonb[]' : ''})
    AS i(id, fence, state, result, error, delay_ms, attempts_used, crashes, outcome, worker_id${withOutputs ? ', outputs' : ''})
  JOIN jobs old ON old.id = i.id
  WHERE j.id = i.id AND j.fence = i.fence AND (j.state = 'active') IS TRUE AND j.worker_id = i.worker_id
  RETURNING j.id, j.fence, j.tenant_id, j.state, j.has_dependants, i.worker_id, old.started_at, i.outcome, j.error, j.expires_at${withOutputs ? ', i.outputs' : ''}
), attempt AS (
  INSERT INTO attempts (job_id, tenant_id, fence, worker_id, started_at, finished_at, outcome, error)
  SELECT id, tenant_id, fence, worker_id, started_at, now(), outcome, error FROM ended
), event AS (
  INSERT INTO events (tenant_id, job_id, type, data)
  SELECT tenant_id, id, 'job.' || state, CASE WHEN error IS NOT NULL THEN jsonb_build_object('error', error) END FROM ended
), released AS (
  DELETE FROM job_inputs i USING ended WHERE i.job_id = ended.id AND ended.state IN ('succeeded', 'failed', 'cancelled')
)${
  withOutputs
    ? `, file AS (
  INSERT INTO files AS f (id, tenant_id, state, name, media_type, size_bytes, sha256, job_id, expires_at)
  SELECT o.id, ended.tenant_id, 'ready', o.name, o."mediaType", o."sizeBytes", decode(o.sha256, 'hex'), ended.id, ended.expires_at
  FROM ended CROSS JOIN jsonb_to_recordset(ended.outputs)
    AS o(id uuid, name text, "mediaType" text, "sizeBytes" bigint, sha256 text)
  ON CONFLICT (id) DO UPDATE SET
    state = 'ready', size_bytes = EXCLUDED.size_bytes, sha256 = EXCLUDED.sha256, expires_at = EXCLUDED.expires_at
  WHERE f.job_id = EXCLUDED.job_id AND f.state = 'pending'
)`
    : ''
}
SELECT id AS "jobId", fence, state, has_dependants FROM ended`;

const settleStatements = {
  plain: { name: 'settle-runs', text: settleSql({ withOutputs: false }) },
  withOutputs: { name: 'settle-runs-with-outputs', text: settleSql({ withOutputs: true }) },
};

/** Settles a group in one statement; used by workers for their own runs and by the reaper for those of the dead. */
export async function settleRuns(
  db: Db,
  runs: readonly RunEnd[],
  onRelease: () => void = () => {},
): Promise<(JobState | undefined)[]> {
  // In the order of the ids, so that groups of several workers lock rows in the same order.
  const ordered = runs.toSorted((a, b) => (a.jobId < b.jobId ? -1 : 1));
  const withOutputs = ordered.some((run) => run.outputs.length > 0);
  const settlements = ordered.map((run) => run.settlement);
  const { rows } = await db.query<{
    jobId: string;
    fence: number;
    state: JobState;
    has_dependants: boolean;
  }>({
    ...(withOutputs ? settleStatements.withOutputs : settleStatements.plain),
    values: [
      plainArray(ordered.map((run) => run.jobId)),
      plainArray(ordered.map((run) => run.fence)),
      plainArray(settlements.map((settlement) => settlement.state)),
      jsonArray(
        ordered.map((run) => (run.settlement.state === 'succeeded' ? (run.result ?? undefined) : undefined)),
      ),
      jsonArray(settlements.map((settlement) => settlement.error)),
      plainArray(settlements.map((settlement) => settlement.delayMs)),
      plainArray(settlements.map((settlement) => settlement.attemptsUsed)),
      plainArray(settlements.map((settlement) => settlement.crashes)),
      plainArray(settlements.map((settlement) => settlement.outcome)),
      plainArray(ordered.map((run) => run.workerId)),
      ...(withOutputs ? [jsonArray(ordered.map((run) => run.outputs))] : []),
    ],
  });
  if (rows.some((row) => row.has_dependants && isFinal(row.state))) onRelease();
  const states = new Map(rows.map((row) => [keyOf(row), row.state]));
  return runs.map((run) => states.get(keyOf(run)));
}

/**
 * Those of the runs whose end is in the record. An attempt with the fence of a run is not enough: when its worker
 * seemed dead, the reaper wrote it, and with another outcome.
 */
async function findSettled(db: Db, runs: readonly RunEnd[]): Promise<Map<string, JobState>> {
  if (runs.length === 0) return new Map();
  const { rows } = await db.query<{ jobId: string; fence: number; state: JobState }>(
    `SELECT a.job_id AS "jobId", a.fence, j.state
     FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::uuid[]) AS run(job_id, fence, outcome, worker_id)
     JOIN attempts a ON a.job_id = run.job_id AND a.fence = run.fence AND a.outcome = run.outcome AND a.worker_id = run.worker_id
     JOIN jobs j ON j.id = a.job_id`,
    [
      runs.map((run) => run.jobId),
      runs.map((run) => run.fence),
      runs.map((run) => run.settlement.outcome),
      runs.map((run) => run.workerId),
    ],
  );
  return new Map(rows.map((row) => [keyOf(row), row.state]));
}

/** After a lost answer nothing is guessed, the record tells (F61). @throws AmbiguousCommitError to try again. */
async function recover(db: Db, run: RunEnd, cause: unknown): Promise<JobState | undefined> {
  const state = (await findSettled(db, [run])).get(keyOf(run));
  if (state !== undefined) return state;
  const { rowCount } = await db.query(
    `SELECT 1 FROM jobs WHERE id = $1 AND fence = $2 AND worker_id = $3 AND state = 'active'`,
    [run.jobId, run.fence, run.workerId],
  );
  // Still ours, so it was not committed, or not yet. Otherwise another run owns the job now.
  if (rowCount === 1) throw new AmbiguousCommitError(cause);
  return undefined;
}
