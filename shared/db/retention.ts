/**
 * Deleting what has expired, in small batches. Rows go first, bytes after them: a crash in between leaves bytes
 * without a row, which the orphan sweep finds; the other order could leave a row that promises bytes.
 */
import { inTransaction, type Db, type Queryable } from './pool.ts';

/**
 * Empties up to `limit` expired jobs: input, result, logs, attempts and files go, the row stays to answer 410.
 * @returns ids of files whose bytes must go.
 */
export function purgeJobs(db: Db, limit: number): Promise<{ jobs: number; fileIds: string[] }> {
  return inTransaction(db, async (client) => {
    // A file that a schedule, or another job, not yet final, takes as its input keeps its job for as long; so does a job that
    // waited for it and may take something from its result. Items are kept as long as their step: its result names their files.
    const { rows } = await client.query<{ id: string }>(
      `SELECT j.id FROM jobs j WHERE j.expires_at < now() AND j.purged_at IS NULL AND j.state IN ('succeeded', 'failed', 'cancelled')
         AND NOT EXISTS (SELECT 1 FROM files f JOIN job_inputs i ON i.tenant_id = f.tenant_id AND i.file_id = f.id WHERE f.job_id = j.id)
         AND NOT EXISTS (SELECT 1 FROM files f JOIN schedule_files s ON s.tenant_id = f.tenant_id AND s.file_id = f.id WHERE f.job_id = j.id)
         AND NOT EXISTS (SELECT FROM job_dependencies d JOIN jobs c ON c.id = d.child_id
           WHERE d.parent_id = j.id AND c.state NOT IN ('succeeded', 'failed', 'cancelled'))
         AND (j.each_id IS NULL OR NOT EXISTS (SELECT FROM each_items e JOIN jobs s ON s.id = e.each_id
           WHERE e.job_id = j.id AND s.purged_at IS NULL))
       ORDER BY j.expires_at LIMIT $1 FOR UPDATE SKIP LOCKED`,
      [limit],
    );
    const ids = rows.map((row) => row.id);
    if (ids.length === 0) return { jobs: 0, fileIds: [] };
    const files = await client.query<{ id: string }>(
      'DELETE FROM files WHERE job_id = ANY($1) RETURNING id',
      [ids],
    );
    for (const table of ['events', 'job_logs', 'attempts', 'effects'])
      await client.query(`DELETE FROM ${table} WHERE job_id = ANY($1)`, [ids]);
    await client.query(
      `UPDATE jobs SET purged_at = now(), input = '{}', result = NULL, progress = NULL WHERE id = ANY($1)`,
      [ids],
    );
    return { jobs: ids.length, fileIds: files.rows.map((row) => row.id) };
  });
}

/** Deletes up to `limit` rows that were emptied more than `keptMs` ago. */
export async function deletePurgedJobs(db: Queryable, keptMs: number, limit: number): Promise<number> {
  const { rowCount } = await db.query(
    `DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE purged_at < now() - $1 * interval '1 ms' ORDER BY purged_at LIMIT $2)`,
    [keptMs, limit],
  );
  return rowCount ?? 0;
}

/** Deletes up to `limit` expired uploads that no schedule and no unfinished job refers to. @returns their ids. */
export async function pruneFiles(db: Queryable, limit: number): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    `DELETE FROM files WHERE id IN (
       SELECT f.id FROM files f WHERE f.expires_at < now() AND f.job_id IS NULL
         AND NOT EXISTS (SELECT 1 FROM job_inputs i WHERE i.tenant_id = f.tenant_id AND i.file_id = f.id)
         AND NOT EXISTS (SELECT 1 FROM schedule_files s WHERE s.tenant_id = f.tenant_id AND s.file_id = f.id)
       ORDER BY f.expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
     RETURNING id`,
    [limit],
  );
  return rows.map((row) => row.id);
}

/** Pending outputs whose run is over (the worker died between announcing and settling). @returns their ids. */
export async function prunePendingFiles(db: Queryable, limit: number): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    `DELETE FROM files WHERE id IN (
       SELECT f.id FROM files f JOIN jobs j ON j.id = f.job_id
       WHERE f.state = 'pending' AND (j.state <> 'active' OR j.started_at > f.created_at) LIMIT $1)
     AND state = 'pending' RETURNING id`,
    [limit],
  );
  return rows.map((row) => row.id);
}

/** Those of `ids` that have no row at all: orphans. */
export async function listUnknownFiles(db: Queryable, ids: readonly string[]): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    'SELECT s.id FROM unnest($1::uuid[]) AS s(id) LEFT JOIN files f ON f.id = s.id WHERE f.id IS NULL',
    [ids],
  );
  return rows.map((row) => row.id);
}
