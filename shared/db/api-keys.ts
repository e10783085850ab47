import { inTransaction, type Db, type Queryable } from './pool.ts';

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
export function insertFirstKey(db: Db, key: NewApiKey): Promise<boolean> {
  return inTransaction(db, async (client) => {
    await lockKeys(client);
    const { rows } = await client.query('SELECT 1 FROM api_keys LIMIT 1');
    if (rows.length > 0) return false;
    await insertKey(client, key);
    return true;
  });
}

/**
 * One decision about keys at a time. A statement of its own: one that takes the lock and then looks would still see what
 * was there before it began to wait.
 */
async function lockKeys(client: Queryable): Promise<void> {
  await client.query(`SELECT pg_advisory_xact_lock(hashtextextended('windlass.keys', 0))`);
}

/** Keys of all tenants, oldest first, after the key `after`: only an admin may list them. */
export async function listKeys(
  db: Queryable,
  options: { limit: number; after?: string },
): Promise<ApiKeyRow[]> {
  const { rows } = await db.query<ApiKeyRow>(
    `SELECT ${columns} FROM api_keys WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2`,
    [options.after ?? null, options.limit],
  );
  return rows;
}

/** `last-admin`: refused, because nobody could administer the service afterwards. */
export function revokeKey(db: Db, id: string): Promise<'revoked' | 'missing' | 'last-admin'> {
  return inTransaction(db, async (client) => {
    await lockKeys(client);
    const { rows } = await client.query<{ is_last_admin: boolean }>(
      `SELECT 'admin' = ANY(k.scopes) AND NOT EXISTS (SELECT 1 FROM api_keys o WHERE o.id <> k.id AND 'admin' = ANY(o.scopes)
         AND o.revoked_at IS NULL AND (o.expires_at IS NULL OR o.expires_at > now())) AS is_last_admin
       FROM api_keys k WHERE k.id = $1 AND k.revoked_at IS NULL`,
      [id],
    );
    const row = rows[0];
    if (row === undefined) return 'missing';
    if (row.is_last_admin) return 'last-admin';
    await client.query('UPDATE api_keys SET revoked_at = now() WHERE id = $1', [id]);
    return 'revoked';
  });
}

/** Notes the use of keys; called rarely with many, not once per request. */
export async function touchKeys(db: Queryable, ids: readonly string[]): Promise<void> {
  await db.query('UPDATE api_keys SET last_used_at = now() WHERE id = ANY($1)', [ids]);
}
