import { createServer } from 'node:net';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { migrate } from './migrate.ts';

test('who cannot reach Postgres learns which setting to check, and the log learns no password', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  const failed = migrate(`postgres://ada:secret@127.0.0.1:${port}/jobs`);
  await expect(failed).rejects.toThrow(
    `Postgres cannot be used: connect ECONNREFUSED 127.0.0.1:${port} (database "jobs" on 127.0.0.1:${port}). Check DATABASE_URL.`,
  );
});
