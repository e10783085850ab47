import { z } from 'zod';
import { scopes, type ApiKeyRow } from '#shared/db/api-keys.ts';

const instant = z.iso.datetime();

/** An API key as admins see it: enough to recognise it by, never the key itself. */
export const keySchema = z
  .object({
    id: z.uuid(),
    tenantId: z.string(),
    name: z.string(),
    prefix: z.string().describe('The first 8 characters.'),
    last4: z.string().describe('The last 4 characters.'),
    scopes: z.array(z.enum(scopes)),
    createdAt: instant,
    expiresAt: instant.nullable(),
    revokedAt: instant.nullable(),
    lastUsedAt: instant.nullable().describe('To the minute.'),
  })
  .meta({ id: 'ApiKey' });

export function presentKey(row: ApiKeyRow): z.input<typeof keySchema> {
  return {
    id: row.id,
    tenantId: row.tenant_id,
    name: row.name,
    prefix: row.prefix,
    last4: row.last4,
    scopes: [...row.scopes],
    createdAt: row.created_at.toISOString(),
    expiresAt: row.expires_at?.toISOString() ?? null,
    revokedAt: row.revoked_at?.toISOString() ?? null,
    lastUsedAt: row.last_used_at?.toISOString() ?? null,
  };
}
