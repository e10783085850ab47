import { accessSync, constants, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { z } from 'zod';

/** The directory cannot be made or written to; the message says what to do. */
export class DataDirUnusableError extends Error {
  override name = 'DataDirUnusableError';
}

/** Two services on one data directory would stop each other's servers: the second is refused. */
export class DataDirLockedError extends Error {
  override name = 'DataDirLockedError';
}

const holderSchema = z.object({ pid: z.number(), host: z.string() });

/** SQLITE_BUSY */
const busy = 5;

/** Kept from the garbage collector, which would close the database and so give up the lock. */
const held = new Set<DatabaseSync>();

/**
 * Takes `dir` (made when it is missing) for this process, until the returned function is called or the process ends.
 *
 * The lock is a lock of the system, which no crash leaves behind and no two processes get; Node only offers it by way of
 * SQLite, on a database that stays empty. A file with a pid was tried: of four starts that find the same stale
 * one, now and then two take it over.
 * @throws DataDirLockedError that says who holds it and what to do; DataDirUnusableError.
 */
export function lockDataDir(dir: string): () => void {
  const holderFile = join(dir, 'lock.json');
  try {
    // Open to pass through: Postgres, Redis and task hosts may run as other users in directories of their own.
    mkdirSync(dir, { recursive: true, mode: 0o711 });
    accessSync(dir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (err) {
    const reason = err instanceof Error ? err.message : String(err);
    throw new DataDirUnusableError(
      `All data is kept in ${dir}, and that cannot be used: ${reason}. Choose a directory that this user may write to: WINDLASS_DATA_DIR.`,
      { cause: err },
    );
  }
  const lock = new DatabaseSync(join(dir, 'lock'), { timeout: 0 });
  try {
    lock.exec('PRAGMA journal_mode = OFF; BEGIN EXCLUSIVE');
  } catch (err) {
    lock.close();
    if (err instanceof Error && 'errcode' in err && err.errcode === busy) throw lockedError(dir, holderFile);
    throw err;
  }
  held.add(lock);
  writeFileSync(holderFile, JSON.stringify({ pid: process.pid, host: hostname() }));
  return () => {
    if (!held.delete(lock)) return;
    rmSync(holderFile, { force: true });
    lock.close();
  };
}

function lockedError(dir: string, holderFile: string): DataDirLockedError {
  const besides = 'or start a second one beside it: WINDLASS_DATA_DIR=.windlass-2 npm start -- --port 8081';
  const holder = findHolder(holderFile);
  // It has the lock, and has not yet written down who it is.
  if (holder === undefined) {
    return new DataDirLockedError(
      `Windlass is being started in ${dir} at this moment. Wait for it, ${besides}`,
    );
  }
  const { pid, host } = holder;
  const stop = host === hostname() ? `Ctrl-C there, or \`kill ${pid}\`` : `on ${host}`;
  return new DataDirLockedError(
    `Windlass is running in ${dir} already, as process ${pid}. Stop it first (${stop}), ${besides}`,
  );
}

function findHolder(holderFile: string): z.infer<typeof holderSchema> | undefined {
  try {
    return holderSchema.parse(JSON.parse(readFileSync(holderFile, 'utf8')));
  } catch {
    return undefined;
  }
}
