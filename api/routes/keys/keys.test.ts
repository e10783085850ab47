import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { keySchema } from '#api/present-key.ts';
import { createClient } from '#test/support/service.ts';
import { createTestApi, type TestApi } from '#test/support/api.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.dispose());

interface Key {
  readonly id: string;
  readonly key: string;
  readonly tenantId: string;
  readonly name: string;
  readonly scopes: string[];
}

async function makeKey(body: Record<string, unknown> = {}): Promise<Key> {
  const response = await api.admin.post('/v1/keys', { name: 'ci', scopes: ['read'], ...body });
  expect(response.status).toBe(201);
  return (await response.json()) as Key;
}

async function listAll(): Promise<Record<string, unknown>[]> {
  const keys: Record<string, unknown>[] = [];
  let path = '/v1/keys?limit=2';
  for (;;) {
    const page = (await (await api.admin.get(path)).json()) as {
      data: Record<string, unknown>[];
      nextCursor: string | null;
    };
    keys.push(...page.data);
    if (page.nextCursor === null) return keys;
    path = `/v1/keys?limit=2&cursor=${page.nextCursor}`;
  }
}

describe('POST /v1/keys 201', () => {
  test('the new key works, with its scopes, for its tenant, which is made with it', async () => {
    const key = await makeKey({ name: 'acme ci', tenantId: 'acme', scopes: ['read', 'submit'] });
    expect(key).toMatchObject({
      tenantId: 'acme',
      name: 'acme ci',
      scopes: ['read', 'submit'],
      expiresAt: null,
      revokedAt: null,
    });
    expect(key.key).toMatch(/^wl_live_[0-9A-Za-z]{36}$/);
    const client = createClient(api.url, key.key);
    const accepted = await client.post('/v1/jobs', { task: 'test.noop', input: {} });
    expect(accepted.status).toBe(202);
    const { id } = (await accepted.json()) as { id: string };
    expect((await client.get(`/v1/jobs/${id}`)).status).toBe(200);
    expect((await api.admin.get(`/v1/jobs/${id}`)).status).toBe(404);
    expect((await client.get('/v1/keys')).status).toBe(403);
  });

  test('without a tenant it belongs to that of the key that asked', async () => {
    expect((await makeKey()).tenantId).toBe('default');
  });

  test('a key is refused from the moment it expires', async () => {
    const key = await makeKey({ expiresAt: '2999-01-01T00:00:00+01:00' });
    expect(key).toMatchObject({ expiresAt: '2998-12-31T23:00:00.000Z' });
    await api.db.query(`UPDATE api_keys SET expires_at = now() WHERE id = $1`, [key.id]);
    const response = await createClient(api.url, key.key).get('/v1/jobs');
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ code: 'unauthorized' });
  });
});

describe('POST /v1/keys 422', () => {
  test.each([
    [{ name: '' }, '/name'],
    [{ name: 'x'.repeat(101) }, '/name'],
    [{ name: 'a\0' }, '/name'],
    [{ tenantId: 'Acme' }, '/tenantId'],
    [{ scopes: [] }, '/scopes'],
    [{ scopes: ['root'] }, '/scopes/0'],
    [{ scopes: ['read', 'read'] }, '/scopes'],
    [{ expiresAt: '2020-01-01T00:00:00Z' }, '/expiresAt'],
    [{ expiresAt: 'tomorrow' }, '/expiresAt'],
    [{ secret: 'mine' }, '/secret'],
  ])('%j', async (body, pointer) => {
    const response = await api.admin.post('/v1/keys', { name: 'ci', scopes: ['read'], ...body });
    expect(response.status).toBe(422);
    expect(await response.json()).toMatchObject({ code: 'invalid-input', errors: [{ pointer }] });
  });
});

describe('GET /v1/keys 200', () => {
  test('lists every key once, oldest first, and none with its secret', async () => {
    const made = [await makeKey(), await makeKey({ tenantId: 'other' }), await makeKey()];
    const keys = await listAll();
    for (const key of keys) expect(keySchema.strict().safeParse(key).error).toBeUndefined();
    const ids = keys.map((key) => key['id'] as string);
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.slice(-3)).toEqual(made.map((key) => key.id));
    const text = JSON.stringify(keys);
    for (const { key } of made) expect(text).not.toContain(key.slice(12, -4));
  });
});

describe('GET /v1/keys 400', () => {
  test('a cursor that was made up is refused', async () => {
    const response = await api.admin.get('/v1/keys?cursor=AAAA');
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'invalid-cursor' });
  });
});

describe('DELETE /v1/keys/{id}', () => {
  test('204: a revoked key no longer works, and is still listed as revoked', async () => {
    const key = await makeKey();
    expect((await api.admin.request('DELETE', `/v1/keys/${key.id}`)).status).toBe(204);
    expect((await createClient(api.url, key.key).get('/v1/jobs')).status).toBe(401);
    const listed = (await listAll()).find((other) => other['id'] === key.id);
    expect(listed?.['revokedAt']).toEqual(expect.any(String));
  });

  test('404: an unknown key, a revoked key, a malformed id', async () => {
    const key = await makeKey();
    await api.admin.request('DELETE', `/v1/keys/${key.id}`);
    for (const id of [randomUUID(), key.id, '7']) {
      expect((await api.admin.request('DELETE', `/v1/keys/${id}`)).status).toBe(404);
    }
  });

  test('409: the last admin key stays', async () => {
    const admins = (await listAll()).filter(
      (key) => (key['scopes'] as string[]).includes('admin') && key['revokedAt'] === null,
    );
    expect(admins).toHaveLength(1);
    const path = `/v1/keys/${String(admins[0]?.['id'])}`;
    const response = await api.admin.request('DELETE', path);
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({ code: 'last-admin-key' });
    const other = await makeKey({ scopes: ['admin'] });
    expect((await createClient(api.url, other.key).request('DELETE', path)).status).toBe(204);
  });
});
