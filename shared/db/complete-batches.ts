/**
 * Starting the job that waits for a batch. It is decided here, in one statement: the job is `blocked` and becomes `queued`
 * once, when no job of the batch is left that has not ended. Any worker may ask at any time; nothing is remembered
 * outside of the record, so whoever dies between the last job's end and this is replaced by whoever asks next.
 */
import type { Db } from './pool.ts';

export interface BatchLook {
  /** Batches that were looked at; the last is the place to go on from. */
  readonly lookedAt: readonly string[];
  /** Jobs that were let go. */
  readonly started: readonly string[];
}

// Locked by whoever is first, skipped by the others. The job may have been cancelled meanwhile: then the batch is complete
// all the same. `input.batch` goes where the task declares it and the client left it out.
const completeSql = (which: string) => `
WITH candidate AS MATERIALIZED (
  SELECT id FROM batches WHERE on_complete_job_id IS NOT NULL AND completed_at IS NULL AND ${which}
), ready AS (
  SELECT b.id, b.size, b.on_complete_job_id, b.on_complete_fills FROM batches b JOIN candidate c ON c.id = b.id
  WHERE b.completed_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM jobs j WHERE j.batch_id = b.id AND j.state IN ('scheduled', 'blocked', 'queued', 'active', 'retrying'))
  ORDER BY b.id FOR UPDATE OF b SKIP LOCKED
), completed AS (
  UPDATE batches b SET completed_at = now() FROM ready r WHERE b.id = r.id
), started AS (
  UPDATE jobs j SET state = 'queued', run_at = now(), rank_at = now() - j.priority * interval '60 s',
    start_before = now() + (j.options->>'startWithinMs')::float8 * interval '1 ms',
    input = CASE WHEN r.on_complete_fills THEN (j.input::jsonb || jsonb_build_object('batch', (
      SELECT jsonb_build_object('id', r.id, 'total', r.size,
        'succeeded', count(*) FILTER (WHERE b.state = 'succeeded'),
        'failed', count(*) FILTER (WHERE b.state = 'failed'),
        'cancelled', count(*) FILTER (WHERE b.state = 'cancelled'))
      FROM jobs b WHERE b.batch_id = r.id)))::json ELSE j.input END
  FROM ready r WHERE j.id = r.on_complete_job_id AND j.state = 'blocked'
  RETURNING j.id, j.tenant_id, r.id AS batch_id
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.queued' FROM started
)
SELECT c.id, s.id AS started FROM candidate c LEFT JOIN started s ON s.batch_id = c.id ORDER BY c.id`;

const someSql = completeSql('id = ANY($1::uuid[])');
const nextSql = completeSql('id > $1 ORDER BY id LIMIT $2');

/** Looks at these batches. Others than those that wait cost a look at an index. */
export function completeBatches(db: Db, ids: readonly string[]): Promise<BatchLook> {
  return look(db, { name: 'complete-batches', text: someSql, values: [ids] });
}

/** Looks at the next `limit` batches that wait, by id. */
export function completeNextBatches(db: Db, after: string, limit: number): Promise<BatchLook> {
  return look(db, { name: 'complete-next-batches', text: nextSql, values: [after, limit] });
}

async function look(db: Db, query: { name: string; text: string; values: unknown[] }): Promise<BatchLook> {
  const { rows } = await db.query<{ id: string; started: string | null }>(query);
  return {
    lookedAt: rows.map((row) => row.id),
    started: rows.flatMap((row) => (row.started === null ? [] : [row.started])),
  };
}
