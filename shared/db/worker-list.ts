/** Workers as an operator sees them, and the switch by which one takes nothing new. */
import { byIndex } from './by-index.ts';
import type { Db, Queryable } from './pool.ts';

/** Most ids of running jobs that are shown of one worker. */
export const workerJobsMax = 100;

export interface WorkerStatusRow {
  readonly id: string;
  readonly host: string;
  readonly pid: number;
  readonly version: string;
  readonly isolation: 'user' | 'process';
  readonly slots: Readonly<Record<string, number>>;
  readonly memory_bytes: number;
  readonly started_at: Date;
  readonly renewed_at: Date;
  readonly is_dead: boolean;
  readonly quiet_at: Date | null;
  /** Jobs of all tenants that it runs. */
  readonly busy: number;
  /** Ids of those of the tenant that asks. */
  readonly job_ids: readonly string[];
}

const statusSql = (condition: string) => `
SELECT w.id, w.host, w.pid, w.version, w.isolation, w.slots, w.memory_bytes, w.started_at, w.renewed_at, w.quiet_at,
  w.reaped_at IS NOT NULL OR w.lease_until <= now() AS is_dead,
  (SELECT count(*) FROM jobs j WHERE j.worker_id = w.id AND j.state = 'active') AS busy,
  ARRAY(SELECT j.id FROM jobs j WHERE j.worker_id = w.id AND j.state = 'active' AND j.tenant_id = $1 ORDER BY j.id LIMIT ${workerJobsMax}) AS job_ids
FROM workers w WHERE ${condition}`;

/** In the order in which they were started, after the worker `after`. */
export function listWorkers(
  db: Db,
  tenantId: string,
  page: { limit: number; after?: string },
): Promise<WorkerStatusRow[]> {
  return byIndex(db, async (client) => {
    const { rows } = await client.query<WorkerStatusRow>(
      `${statusSql('$2::uuid IS NULL OR w.id > $2')} ORDER BY w.id LIMIT $3`,
      [tenantId, page.after ?? null, page.limit],
    );
    return rows;
  });
}

export function findWorker(db: Db, tenantId: string, id: string): Promise<WorkerStatusRow | undefined> {
  return byIndex(db, async (client) => {
    const { rows } = await client.query<WorkerStatusRow>(statusSql('w.id = $2'), [tenantId, id]);
    return rows[0];
  });
}

/** The worker hears of it with its next renewal. @returns false when there is no such worker, or it is dead. */
export async function setQuiet(db: Queryable, id: string, isQuiet: boolean): Promise<boolean> {
  const { rowCount } = await db.query(
    `UPDATE workers SET quiet_at = CASE WHEN $2 THEN coalesce(quiet_at, now()) END
     WHERE id = $1 AND reaped_at IS NULL AND lease_until > now()`,
    [id, isQuiet],
  );
  return rowCount === 1;
}
