/** Deleting a job that has ended, with everything it made. Rows go first, bytes after them, as in retention.ts. */
import { isFinal, type JobState } from '../domain/job.ts';
import { inTransaction, sqlState, type Db } from './pool.ts';

export type DeleteAnswer =
  /** Ids of files whose bytes must go. */
  | { readonly type: 'deleted'; readonly fileIds: readonly string[] }
  | { readonly type: 'missing' }
  | { readonly type: 'not-final'; readonly state: JobState }
  /** Another job, not yet final, waits or has waited for it, and may take something from its result; or is an item of it. */
  | { readonly type: 'awaited' }
  /** A schedule, or another job, not yet final, takes one of its files as input. */
  | { readonly type: 'file-in-use' };

export async function deleteJob(db: Db, tenantId: string, id: string): Promise<DeleteAnswer> {
  try {
    return await inTransaction(db, async (client): Promise<DeleteAnswer> => {
      const { rows } = await client.query<{ state: JobState }>(
        'SELECT state FROM jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE',
        [tenantId, id],
      );
      const state = rows[0]?.state;
      if (state === undefined) return { type: 'missing' };
      if (!isFinal(state)) return { type: 'not-final', state };
      // Nobody can begin to wait for it while its row is locked.
      const awaited = await client.query(
        `SELECT FROM job_dependencies d JOIN jobs c ON c.id = d.child_id
         WHERE d.parent_id = $1 AND c.state NOT IN ('succeeded', 'failed', 'cancelled')
         UNION ALL
         SELECT FROM each_items e JOIN jobs s ON s.id = e.each_id
         WHERE e.job_id = $1 AND s.state NOT IN ('succeeded', 'failed', 'cancelled')
         UNION ALL
         SELECT FROM jobs i WHERE i.each_id = $1 AND i.state IN ('scheduled', 'blocked', 'queued', 'active', 'retrying') LIMIT 1`,
        [id],
      );
      if (awaited.rowCount !== 0) return { type: 'awaited' };
      // The foreign keys of job_inputs and schedule_files say whether one is needed, whatever happens at the same moment.
      const files = await client.query<{ id: string }>(
        'DELETE FROM files WHERE tenant_id = $1 AND job_id = $2 RETURNING id',
        [tenantId, id],
      );
      await client.query('DELETE FROM events WHERE tenant_id = $1 AND job_id = $2', [tenantId, id]);
      // Attempts, logs and effects go with it.
      await client.query('DELETE FROM jobs WHERE tenant_id = $1 AND id = $2', [tenantId, id]);
      return { type: 'deleted', fileIds: files.rows.map((row) => row.id) };
    });
  } catch (err) {
    if (isFileInUse(err)) return { type: 'file-in-use' };
    throw err;
  }
}

const holders: readonly unknown[] = ['job_inputs', 'schedule_files'];

function isFileInUse(err: unknown): boolean {
  return sqlState(err) === '23503' && err instanceof Error && 'table' in err && holders.includes(err.table);
}
