/**
 * Jobs that wait for jobs. A job with parents is accepted as `blocked`; in the same transaction its edges are written, under
 * locks on the parents: one that ends at this moment either is seen as ended here, or sees the edge. From then on the
 * database itself moves it on, in whatever transaction ends the last parent (migrations/0005-workflows.sql, jobs_end_with_dependants).
 */
import type { NewJob } from './accept-jobs.ts';
import { jsonArray, plainArray, textArray } from './array-literal.ts';
import { isDataError, type Queryable } from './pool.ts';

/** `success`: cancelled when the parent ends otherwise. `end`: whatever becomes of the parent. */
export type DependsOn = 'success' | 'end';

export interface NewDependency {
  readonly parentId: string;
  readonly on: DependsOn;
  /** What the input takes from the result of the parent. */
  readonly refs: readonly NewInputRef[];
}

export interface NewInputRef {
  /** Path in the input. */
  readonly at: readonly string[];
  /** Path in the result. */
  readonly path: readonly string[];
  /** What stands in its place when there is nothing to take. */
  readonly ifMissing: 'null' | 'omit';
}

/** A parent does not exist (any more), or is another tenant's. */
export function isMissingParentError(err: unknown): boolean {
  return (
    isDataError(err) &&
    err instanceof Error &&
    'constraint' in err &&
    err.constraint === 'job_dependencies_parent'
  );
}

// The foreign key would be satisfied by a parent that ends at this moment: only the lock says how it ended, or makes its end wait.
const linkSql = `
WITH edge AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS e(child_id, parent_id, tenant_id, on_end)
), parent AS MATERIALIZED (
  SELECT id, state, has_dependants FROM jobs WHERE id IN (SELECT parent_id FROM edge) ORDER BY id FOR NO KEY UPDATE
), flagged AS (
  UPDATE jobs j SET has_dependants = true FROM parent p
  WHERE j.id = p.id AND NOT p.has_dependants AND p.state NOT IN ('succeeded', 'failed', 'cancelled')
), ref AS (
  INSERT INTO job_input_refs (child_id, parent_id, position, tenant_id, at, path, if_missing)
  SELECT e.child_id, e.parent_id, r.position, e.tenant_id, r.at, r.path, r."ifMissing"
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $5::jsonb[]) AS e(child_id, parent_id, tenant_id, refs)
  CROSS JOIN jsonb_to_recordset(e.refs) AS r(position integer, at text[], path text[], "ifMissing" text)
), linked AS (
  INSERT INTO job_dependencies (child_id, parent_id, tenant_id, on_end, parent_state)
  SELECT e.child_id, e.parent_id, e.tenant_id, e.on_end, CASE WHEN p.state IN ('succeeded', 'failed', 'cancelled') THEN p.state END
  FROM edge e LEFT JOIN parent p ON p.id = e.parent_id
  RETURNING child_id, parent_id, parent_state
)
SELECT child_id, parent_id FROM linked WHERE parent_state IS NOT NULL`;

/**
 * Writes the edges of jobs that were inserted just now, in the same transaction, and moves on those that need not wait.
 * Parents may be among them.
 */
export async function linkDependencies(client: Queryable, jobs: readonly NewJob[]): Promise<void> {
  const edges = jobs.flatMap((job) => (job.dependsOn ?? []).map((edge) => ({ job, edge })));
  if (edges.length === 0) return;
  const { rows } = await client.query<{ child_id: string; parent_id: string }>({
    name: 'link-dependencies',
    text: linkSql,
    values: [
      plainArray(edges.map(({ job }) => job.id)),
      plainArray(edges.map(({ edge }) => edge.parentId)),
      textArray(edges.map(({ job }) => job.tenantId)),
      plainArray(edges.map(({ edge }) => edge.on)),
      jsonArray(edges.map(({ edge }) => edge.refs.map((ref, position) => ({ ...ref, position })))),
    ],
  });
  if (rows.length === 0) return;
  await client.query({
    name: 'release-jobs',
    text: 'SELECT release_jobs($1::uuid[], $2::uuid[])',
    values: [
      plainArray([...new Set(rows.map((row) => row.child_id))]),
      plainArray([...new Set(rows.map((row) => row.parent_id))]),
    ],
  });
}

/** Those of `ids` that are not jobs of this tenant. */
export async function listMissingJobs(
  db: Queryable,
  tenantId: string,
  ids: readonly string[],
): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    `SELECT wanted.id FROM unnest($2::uuid[]) AS wanted(id)
     LEFT JOIN jobs j ON j.tenant_id = $1 AND j.id = wanted.id WHERE j.id IS NULL`,
    [tenantId, ids],
  );
  return rows.map((row) => row.id);
}

export interface DependencyRow {
  readonly parent_id: string;
  readonly on_end: DependsOn;
}

/** What a job waits for, or has waited for. */
export async function listDependencies(
  db: Queryable,
  tenantId: string,
  jobId: string,
): Promise<DependencyRow[]> {
  const { rows } = await db.query<DependencyRow>({
    name: 'list-dependencies',
    text: 'SELECT parent_id, on_end FROM job_dependencies WHERE tenant_id = $1 AND child_id = $2 ORDER BY parent_id',
    values: [tenantId, jobId],
  });
  return rows;
}

/** Moves on a job that became `blocked` again, if nothing is left to wait for. */
export async function releaseJob(db: Queryable, id: string): Promise<void> {
  await db.query(
    'SELECT release_jobs(ARRAY[$1::uuid], ARRAY(SELECT parent_id FROM job_dependencies WHERE child_id = $1))',
    [id],
  );
}

/** What was too much for the transactions that ended the parents. @returns how many ended jobs were looked at. */
export async function settleDependants(db: Queryable): Promise<number> {
  const { rows } = await db.query<{ count: number }>({
    name: 'settle-dependants',
    text: 'SELECT settle_dependants() AS count',
  });
  return rows[0]?.count ?? 0;
}

/**
 * The last resort: of up to `limit` blocked jobs after `after`, those that waited for jobs and wait for none move on. There are none
 * unless somebody took rows away. What is blocked by something else than jobs stays so, and so do steps that wait for their items.
 * @returns where to go on; undefined at the end.
 */
export async function releaseStranded(
  db: Queryable,
  after: string,
  limit: number,
): Promise<{ next: string | undefined; released: number }> {
  const { rows } = await db.query<{ next: string | null; ids: string[] | null }>({
    name: 'list-stranded',
    text: `
      WITH seen AS MATERIALIZED (
        SELECT id, workflow_id IS NOT NULL OR options ? 'dependsOn' AS had_parents FROM jobs j WHERE state = 'blocked' AND id > $1
          AND NOT EXISTS (SELECT FROM each_runs r WHERE r.job_id = j.id) ORDER BY id LIMIT $2
      )
      SELECT (SELECT id FROM seen ORDER BY id OFFSET $2 - 1 LIMIT 1) AS next,
        (SELECT array_agg(id::text) FROM seen s WHERE had_parents AND NOT EXISTS (
          SELECT FROM job_dependencies d WHERE d.child_id = s.id AND d.parent_state IS NULL)) AS ids`,
    values: [after, limit],
  });
  const ids = rows[0]?.ids ?? [];
  if (ids.length > 0) {
    await db.query({
      name: 'release-jobs',
      text: 'SELECT release_jobs($1::uuid[], $2::uuid[])',
      values: [plainArray(ids), '{}'],
    });
  }
  return { next: rows[0]?.next ?? undefined, released: ids.length };
}
