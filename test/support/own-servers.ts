import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { inject } from 'vitest';
import {
  startOwnPostgres,
  startOwnRedis,
  type OwnPostgres,
  type OwnRedis,
  type OwnServer,
} from './breakable-servers.ts';

export type { OwnPostgres, OwnRedis, OwnServer };

/** A migrated Postgres for one test. */
export function ownPostgres(): Promise<OwnPostgres> {
  return inOwnDirectory(startOwnPostgres);
}

/** A Redis for one test. */
export function ownRedis(): Promise<OwnRedis> {
  return inOwnDirectory(startOwnRedis);
}

/** Inside the directory of the run, which is removed at its end even when the test failed. */
async function inOwnDirectory<Server extends OwnServer>(
  start: (dir: string) => Promise<Server>,
): Promise<Server> {
  const dir = mkdtempSync(join(inject('servers').dir, 'own-'));
  chmodSync(dir, 0o711);
  const server = await start(dir);
  const stop = server.dispose.bind(server);
  return Object.assign(server, {
    async dispose() {
      await stop();
      rmSync(dir, { recursive: true, force: true });
    },
  });
}
