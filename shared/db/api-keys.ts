import type { Queryable } from './pool.ts';

export const scopes = ['submit', 'read', 'operate', 'admin'] as const;
export type Scope = (typeof scopes)[number];

export interface ApiKeyRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly name: string;
  readonly prefix: string;
  readonly last4: string;
  readonly scopes: readonly Scope[];
  readonly created_at: Date;
  readonly expires_at: Date | null;
  readonly revoked_at: Date | null;
  readonly last_used_at: Date | null;
}

export interface NewApiKey {
  readonly id: string;
  readonly tenantId: string;
  readonly name: string;
  readonly prefix: string;
  readonly last4: string;
  /** SHA-256 of the whole key. */
  readonly hash: Buffer;
  readonly scopes: readonly Scope[];
  readonly expiresAt: Date | null;
}

const columns =
  'id, tenant_id, name, prefix, last4, scopes, created_at, expires_at, revoked_at, last_used_at';

/** A key that may be used now. */
export async function findUsableKey(db: Queryable, hash: Buffer): Promise<ApiKeyRow | undefined> {
  const { rows } = await db.query<ApiKeyRow>(
    `SELECT ${columns} FROM api_keys WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())`,
    [hash],
  );
  return rows[0];
}

/** Adds a key, and its tenant when it is new. */
export async function insertKey(db: Queryable, key: NewApiKey): Promise<ApiKeyRow> {
  await db.query('INSERT INTO tenants (id) VALUES ($1) ON CONFLICT DO NOTHING', [key.tenantId]);
  const { rows } = await db.query<ApiKeyRow>(
    `INSERT INTO api_keys (id, tenant_id, name, prefix, last4, hash, scopes, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING ${columns}`,
    [key.id, key.tenantId, key.name, key.prefix, key.last4, key.hash, key.scopes, key.expiresAt],
  );
  const row = rows[0];
  if (row === undefined) throw new Error('INSERT … RETURNING answered no row.');
  return row;
}

/** Adds the first key of a database, once, however many processes start at the same moment. */
export async function insertFirstKey(db: Queryable, key: NewApiKey): Promise<boolean> {
  const { rowCount } = await db.query(
    `WITH lock AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('windlass.first-key', 0)))
     INSERT INTO api_keys (id, tenant_id, name, prefix, last4, hash, scopes, expires_at)
     SELECT $1, $2, $3, $4, $5, $6, $7, $8 FROM lock WHERE NOT EXISTS (SELECT 1 FROM api_keys)`,
    [key.id, key.tenantId, key.name, key.prefix, key.last4, key.hash, key.scopes, key.expiresAt],
  );
  return rowCount === 1;
}

/** All keys of all tenants: only an admin may list them. */
export async function listKeys(db: Queryable): Promise<ApiKeyRow[]> {
  const { rows } = await db.query<ApiKeyRow>(`SELECT ${columns} FROM api_keys ORDER BY id LIMIT 1000`);
  return rows;
}

/** `last-admin`: refused, because nobody could administer the service afterwards. */
export async function revokeKey(db: Queryable, id: string): Promise<'revoked' | 'missing' | 'last-admin'> {
  const { rows } = await db.query<{ is_last_admin: boolean; revoked: boolean }>(
    `WITH target AS (
       SELECT k.id, 'admin' = ANY(k.scopes) AND NOT EXISTS (SELECT 1 FROM api_keys o WHERE o.id <> k.id AND 'admin' = ANY(o.scopes)
         AND o.revoked_at IS NULL AND (o.expires_at IS NULL OR o.expires_at > now())) AS is_last_admin
       FROM api_keys k WHERE k.id = $1 AND k.revoked_at IS NULL
     ), done AS (
       UPDATE api_keys k SET revoked_at = now() FROM target t WHERE k.id = t.id AND NOT t.is_last_admin RETURNING k.id
     )
     SELECT is_last_admin, EXISTS (SELECT 1 FROM done) AS revoked FROM target`,
    [id],
  );
  const row = rows[0];
  if (row === undefined) return 'missing';
  return row.is_last_admin ? 'last-admin' : 'revoked';
}

/** Notes the use of keys; called rarely with many, not once per request. */
export async function touchKeys(db: Queryable, ids: readonly string[]): Promise<void> {
  await db.query('UPDATE api_keys SET last_used_at = now() WHERE id = ANY($1)', [ids]);
}
