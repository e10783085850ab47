import type { Queryable } from './pool.ts';

export interface IdempotencyRow {
  /** Lower-case hex. */
  readonly fingerprint: string;
  readonly resource: 'job' | 'file' | 'batch' | 'workflow';
  readonly resource_id: string;
  /** The request made no job: the resource is the one that held its unique key. */
  readonly is_duplicate: boolean;
}

/** What a key stands for, while it is remembered. */
export async function findIdempotencyKey(
  db: Queryable,
  tenantId: string,
  key: string,
): Promise<IdempotencyRow | undefined> {
  const { rows } = await db.query<IdempotencyRow>(
    `SELECT encode(fingerprint, 'hex') AS fingerprint, resource, resource_id, is_duplicate FROM idempotency_keys WHERE tenant_id = $1 AND key = $2`,
    [tenantId, key],
  );
  return rows[0];
}

/** Forgets keys older than `maxAgeMs`, at most `limit` in one call. */
export async function pruneIdempotencyKeys(db: Queryable, maxAgeMs: number, limit: number): Promise<number> {
  const { rowCount } = await db.query(
    `DELETE FROM idempotency_keys WHERE (tenant_id, key) IN
       (SELECT tenant_id, key FROM idempotency_keys WHERE created_at < now() - $1 * interval '1 ms' LIMIT $2)`,
    [maxAgeMs, limit],
  );
  return rowCount ?? 0;
}
