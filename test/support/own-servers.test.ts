import { Redis } from 'ioredis';
import { Client } from 'pg';
import { expect, test } from 'vitest';
import { ownPostgres, ownRedis } from './own-servers.ts';
import { waitFor } from './wait-for.ts';

test('a Postgres of its own comes back on the same URL with its data after a kill and a stop', async () => {
  const postgres = await ownPostgres();
  await ask(postgres.url, `INSERT INTO tenants (id) VALUES ('acme')`);
  await postgres.kill();
  await expect(ask(postgres.url, 'SELECT 1')).rejects.toThrow('ECONNREFUSED');
  await postgres.start();
  await postgres.stop();
  await postgres.start();
  expect(await ask(postgres.url, 'SELECT id FROM tenants ORDER BY id')).toEqual([
    { id: 'acme' },
    { id: 'default' },
  ]);
  await postgres.dispose();
});

test('a frozen Postgres answers nothing, on open connections either, until it is thawed', async () => {
  const postgres = await ownPostgres();
  const open = new Client({ connectionString: postgres.url });
  await open.connect();
  postgres.freeze();
  let hasAnswered = false;
  const answer = open.query('SELECT 1').finally(() => (hasAnswered = true));
  await expect(ask(postgres.url, 'SELECT 1')).rejects.toThrow('timeout');
  expect(hasAnswered).toBe(false);
  postgres.thaw();
  await answer;
  await open.end();
  await postgres.dispose();
});

test('a Redis of its own comes back with its data, or empty, on the same URL', async () => {
  const server = await ownRedis();
  const redis = new Redis(server.url, { retryStrategy: () => 20, maxRetriesPerRequest: null });
  redis.on('error', () => undefined);
  await redis.set('kept', '1');
  await server.stop();
  await server.start();
  expect(await redis.get('kept')).toBe('1');
  await server.kill();
  await server.startEmpty();
  expect(await redis.get('kept')).toBeNull();

  server.freeze();
  let pong: string | undefined;
  void redis.ping().then((answer) => (pong = answer));
  const second = new Redis(server.url, { commandTimeout: 300, retryStrategy: () => null });
  second.on('error', () => undefined);
  await expect(second.ping()).rejects.toThrow('Command timed out');
  expect(pong).toBeUndefined();
  server.thaw();
  await waitFor(() => pong, { what: 'the answer after the thaw' });
  redis.disconnect();
  second.disconnect();
  await server.dispose();
});

async function ask(url: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 1_000 });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}
