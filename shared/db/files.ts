/** Rows of stored files. Bytes are in storage under the same id; a row without bytes or bytes without a row are swept. */
import type { NewFile } from './accept-jobs.ts';
import { sqlState, type Queryable } from './pool.ts';

export interface FileRow {
  readonly id: string;
  readonly name: string;
  readonly media_type: string;
  readonly detected_type: string | null;
  readonly size_bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
  readonly job_id: string | null;
  readonly created_at: Date;
  readonly expires_at: Date | null;
}

const columns = `id, name, media_type, detected_type, size_bytes, encode(sha256, 'hex') AS sha256, job_id, created_at, expires_at`;

export async function findFile(db: Queryable, tenantId: string, id: string): Promise<FileRow | undefined> {
  const { rows } = await db.query<FileRow>(
    `SELECT ${columns} FROM files WHERE tenant_id = $1 AND id = $2 AND state = 'ready'`,
    [tenantId, id],
  );
  return rows[0];
}

/** The visible output files of a job, in the order they were made. */
export async function listFilesOfJob(db: Queryable, tenantId: string, jobId: string): Promise<FileRow[]> {
  const { rows } = await db.query<FileRow>(
    `SELECT ${columns} FROM files WHERE tenant_id = $1 AND job_id = $2 AND state = 'ready' ORDER BY id`,
    [tenantId, jobId],
  );
  return rows;
}

/** Those of `ids` that are not files of this tenant. */
export async function listMissingFiles(
  db: Queryable,
  tenantId: string,
  ids: readonly string[],
): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    `SELECT wanted.id FROM unnest($2::uuid[]) AS wanted(id)
     LEFT JOIN files f ON f.tenant_id = $1 AND f.id = wanted.id AND f.state = 'ready' WHERE f.id IS NULL`,
    [tenantId, ids],
  );
  return rows.map((row) => row.id);
}

/** Those of `ids` that are files of this tenant, and stay so until the transaction ends. Locked in the order of their ids. */
export async function lockReadyFiles(
  client: Queryable,
  tenantId: string,
  ids: readonly string[],
): Promise<ReadonlySet<string>> {
  if (ids.length === 0) return new Set();
  const { rows } = await client.query<{ id: string }>(
    `SELECT id FROM files WHERE tenant_id = $1 AND id = ANY($2::uuid[]) AND state = 'ready' ORDER BY id FOR KEY SHARE`,
    [tenantId, [...new Set(ids)]],
  );
  return new Set(rows.map((row) => row.id));
}

/**
 * Commits the row of an upload, with its idempotency key when it has one.
 * @returns undefined when the key was there before; nothing was written then.
 */
export async function insertFile(
  db: Queryable,
  tenantId: string,
  file: NewFile,
  idempotency: { key: string; fingerprint: string } | null,
): Promise<FileRow | undefined> {
  // One statement, so that a key is never held by a process that stands still in the middle of a transaction.
  const { rows } = await db.query<FileRow>(
    `WITH keyed AS (
       INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id)
       SELECT $2, $8, decode($9, 'hex'), 'file', $1 WHERE $8::text IS NOT NULL
       ON CONFLICT DO NOTHING RETURNING resource_id
     )
     INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, expires_at)
     SELECT $1, $2, 'ready', $3, $4, $5, decode($6, 'hex'), now() + $7 * interval '1 ms'
     WHERE $8::text IS NULL OR EXISTS (SELECT 1 FROM keyed)
     RETURNING ${columns}`,
    [
      file.id,
      tenantId,
      file.name,
      file.mediaType,
      file.sizeBytes,
      file.sha256,
      file.retentionMs,
      idempotency?.key ?? null,
      idempotency?.fingerprint ?? null,
    ],
  );
  return rows[0];
}

/** `in-use`: a schedule, or a job that is not final, refers to it (the foreign key says so, whatever happens at the same moment). */
export async function deleteFile(
  db: Queryable,
  tenantId: string,
  id: string,
): Promise<'deleted' | 'in-use' | 'missing'> {
  try {
    const { rowCount } = await db.query(
      `DELETE FROM files WHERE tenant_id = $1 AND id = $2 AND state = 'ready'`,
      [tenantId, id],
    );
    return rowCount === 0 ? 'missing' : 'deleted';
  } catch (err) {
    if (sqlState(err) === '23503') return 'in-use';
    throw err;
  }
}

/** Takes back the announced files of a run that did not succeed. Their bytes are deleted by the caller. */
export async function deletePendingFiles(db: Queryable, ids: readonly string[]): Promise<void> {
  await db.query(`DELETE FROM files WHERE id = ANY($1) AND state = 'pending'`, [ids]);
}
