import { createHash, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createWorld, type World } from '#test/support/world.ts';
import { uuidv7 } from '../ids.ts';
import { insertFirstKey, insertKey, listKeys, revokeKey, type NewApiKey } from './api-keys.ts';
import { createDb, type Db } from './pool.ts';

let world: World;
let db: Db;
beforeAll(async () => {
  world = await createWorld();
  db = createDb({ url: world.databaseUrl, size: 8, timeoutMs: 5_000, name: 'test' });
  // All connections are open, so that statements really meet.
  await Promise.all(Array.from({ length: 8 }, () => db.query('SELECT pg_sleep(0.1)')));
});
beforeEach(() => db.query('DELETE FROM api_keys'));
afterAll(async () => {
  await db.end();
  await world.dispose();
});

// One race may be missed; this many were not, with the lock taken out.
const rounds = 40;

test('processes that start at the same moment make one first key', async () => {
  for (let round = 0; round < rounds; round += 1) {
    await db.query('DELETE FROM api_keys');
    const made = await Promise.all(Array.from({ length: 8 }, () => insertFirstKey(db, newAdminKey())));
    expect(made.filter(Boolean)).toHaveLength(1);
    expect(await listKeys(db, { limit: 100 })).toHaveLength(1);
  }
});

test('the last admin key stays, also when all are revoked at the same moment', async () => {
  for (let round = 0; round < rounds; round += 1) {
    await db.query('DELETE FROM api_keys');
    const keys = [newAdminKey(), newAdminKey()];
    for (const key of keys) await insertKey(db, key);
    const answers = await Promise.all(keys.map((key) => revokeKey(db, key.id)));
    expect(answers.toSorted()).toEqual(['last-admin', 'revoked']);
  }
});

test('an admin key that has expired does not count as the other admin', async () => {
  const [usable, expired] = [newAdminKey(), { ...newAdminKey(), expiresAt: new Date('2020-01-01') }];
  await insertKey(db, usable);
  await insertKey(db, expired);
  expect(await revokeKey(db, usable.id)).toBe('last-admin');
});

function newAdminKey(): NewApiKey {
  return {
    id: uuidv7(),
    tenantId: 'default',
    name: 'test',
    prefix: 'wl_live_',
    last4: 'last',
    hash: createHash('sha256').update(randomUUID()).digest(),
    scopes: ['admin'],
    expiresAt: null,
  };
}
