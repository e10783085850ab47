/**
 * API keys: `wl_live_` + 30 base62 characters (178 bits) + 6 base62 characters of CRC-32. Only the SHA-256 of a
 * key is stored; a key whose checksum is wrong never reaches the database. A key set by WINDLASS_API_KEY may be
 * any 24 or more visible characters.
 */
import { hash, randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { findUsableKey, touchKeys, type ApiKeyRow, type NewApiKey, type Scope } from '#shared/db/api-keys.ts';
import type { Db } from '#shared/db/pool.ts';
import { AppError } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import type { Identity } from './define-route.ts';

/** @throws AppError `unauthorized` that says what is wrong with the header. */
export type Authenticate = (authorization: string | undefined) => Promise<Identity>;

/** A revoked key keeps working for this long on a process that has just seen it. */
const cacheMs = 5_000;
const cacheMax = 10_000;

export function createAuthenticate(options: { db: Db; isOff: boolean }): Authenticate {
  const { db, isOff } = options;
  if (isOff) {
    const everyone: Identity = { tenantId: 'default', keyId: undefined, scopes: ['admin'] };
    return () => Promise.resolve(everyone);
  }
  const cache = new Map<string, { row: ApiKeyRow | undefined; untilMs: number }>();
  let used = new Set<string>();
  // One statement a minute notes which keys were used, instead of one per request.
  setInterval(() => {
    const ids = [...used];
    used = new Set();
    if (ids.length > 0) touchKeys(db, ids).catch(() => {});
  }, 60_000).unref();

  return async (authorization) => {
    const key = readBearer(authorization);
    const digest = hash('sha256', key, 'hex');
    let entry = cache.get(digest);
    if (entry === undefined || entry.untilMs < performance.now()) {
      // Looked up by its digest, so that the time of the look-up says nothing about the key itself.
      const row = await findUsableKey(db, Buffer.from(digest, 'hex'));
      entry = { row, untilMs: performance.now() + cacheMs };
      if (cache.size >= cacheMax) cache.clear();
      cache.set(digest, entry);
    }
    const { row } = entry;
    if (row === undefined)
      throw new AppError('unauthorized', 'This API key does not exist, was revoked or has expired.');
    used.add(row.id);
    return { tenantId: row.tenant_id, keyId: row.id, scopes: row.scopes };
  };
}

function readBearer(authorization: string | undefined): string {
  if (authorization === undefined)
    throw new AppError('unauthorized', 'Send your API key as `Authorization: Bearer wl_…`.');
  const key = /^Bearer +([\x21-\x7e]{24,255}) *$/i.exec(authorization)?.[1];
  if (key === undefined)
    throw new AppError('unauthorized', 'The Authorization header is not of the form `Bearer wl_…`.');
  if (key.startsWith('wl_') && !hasValidChecksum(key)) {
    throw new AppError('unauthorized', 'The API key is mistyped or cut off: its checksum is wrong.');
  }
  return key;
}

/** Admin keys may do everything. */
export function hasScope(identity: Identity, scope: Scope): boolean {
  return identity.scopes.includes(scope) || identity.scopes.includes('admin');
}

const base62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

function generateSecret(): string {
  const body = `wl_live_${Array.from({ length: 30 }, () => base62[randomInt(62)]).join('')}`;
  return body + checksum(body);
}

function checksum(text: string): string {
  let value = crc32(text);
  let encoded = '';
  for (let digit = 0; digit < 6; digit += 1) {
    encoded = (base62[value % 62] ?? '') + encoded;
    value = Math.floor(value / 62);
  }
  return encoded;
}

function hasValidChecksum(key: string): boolean {
  return key.length > 12 && checksum(key.slice(0, -6)) === key.slice(-6);
}

/** Makes a key. The secret is returned here and nowhere else. */
export function makeKey(options: {
  tenantId: string;
  name: string;
  scopes: readonly Scope[];
  expiresAt?: Date;
  secret?: string;
}): { secret: string; row: NewApiKey } {
  const secret = options.secret ?? generateSecret();
  return {
    secret,
    row: {
      id: uuidv7(),
      tenantId: options.tenantId,
      name: options.name,
      prefix: secret.slice(0, 8),
      last4: secret.slice(-4),
      hash: hash('sha256', secret, 'buffer'),
      scopes: options.scopes,
      expiresAt: options.expiresAt ?? null,
    },
  };
}
