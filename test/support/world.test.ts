import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import { expect, test } from 'vitest';
import { createWorld } from './world.ts';

test('two worlds share nothing, and begin migrated and empty', async () => {
  const [one, other] = await Promise.all([createWorld(), createWorld()]);
  await withClient(one.databaseUrl, (client) => client.query(`INSERT INTO tenants (id) VALUES ('acme')`));
  writeFileSync(join(one.dataDir, 'file'), '');
  const tenants = await withClient(other.databaseUrl, (client) => client.query('SELECT id FROM tenants'));
  expect(tenants.rows).toEqual([{ id: 'default' }]);
  expect(readdirSync(other.dataDir)).toEqual([]);
  expect(one.redisPrefix).not.toBe(other.redisPrefix);
  await Promise.all([one.dispose(), other.dispose()]);
});

test('dispose() leaves no database, key or file behind', async () => {
  const [world, other] = await Promise.all([createWorld(), createWorld()]);
  const redis = new Redis(world.redisUrl);
  await redis.mset(`${world.redisPrefix}:a`, '1', `${other.redisPrefix}:a`, '1');
  await world.dispose();
  expect(await redis.keys(`${world.redisPrefix}*`)).toEqual([]);
  expect(await redis.keys(`${other.redisPrefix}*`)).toEqual([`${other.redisPrefix}:a`]);
  expect(existsSync(world.dataDir)).toBe(false);
  await expect(withClient(world.databaseUrl, (client) => client.query('SELECT 1'))).rejects.toThrow(
    'does not exist',
  );
  redis.disconnect();
  await other.dispose();
});

test('a test that leaves something running on its database fails, and learns what', async () => {
  const world = await createWorld();
  const leftOpen = new Client({ connectionString: world.databaseUrl, application_name: 'forgotten worker' });
  leftOpen.on('error', () => undefined);
  await leftOpen.connect();
  await expect(world.dispose()).rejects.toThrow(/forgotten worker/);
});

async function withClient<Value>(url: string, work: (client: Client) => Promise<Value>): Promise<Value> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
