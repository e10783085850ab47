import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { identifyProcess, isRunning, processIdentitySchema } from '#scripts/process-identity.ts';

/** Two services on one data directory would stop each other's servers: the second is refused. */
export class DataDirLockedError extends Error {
  override name = 'DataDirLockedError';
}

const holderSchema = processIdentitySchema.extend({ host: z.string() });
type Holder = z.infer<typeof holderSchema>;

/**
 * Takes `dir` (made when it is missing) for this process, until the returned function is called or the process is gone.
 * @throws DataDirLockedError that says who holds it and what to do.
 */
export function lockDataDir(dir: string): () => void {
  // Open to pass through: Postgres, Redis and task hosts may run as other users in directories of their own.
  mkdirSync(dir, { recursive: true, mode: 0o711 });
  const file = join(dir, 'lock');
  const self = identifyProcess(process.pid);
  if (self === undefined) throw new Error('This process cannot find out when it was started.');
  const own = JSON.stringify({ ...self, host: hostname() } satisfies Holder);
  const candidate = join(dir, `lock.${process.pid}`);
  writeFileSync(candidate, own, { mode: 0o644 });
  try {
    while (!tryLink(candidate, file)) takeOver(dir, file);
  } finally {
    rmSync(candidate, { force: true });
  }
  return () => {
    if (readText(file) === own) rmSync(file, { force: true });
  };
}

/** A link appears whole or not at all, and only where nothing is. */
function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (err) {
    if (err instanceof Error && 'code' in err && err.code === 'EEXIST') return false;
    throw err;
  }
}

/** Removes the lock of a process that is gone. @throws DataDirLockedError when it is not. */
function takeOver(dir: string, file: string): void {
  const text = readText(file);
  const holder = parse(text);
  if (holder !== undefined && holder.host !== hostname()) {
    throw new DataDirLockedError(
      `${dir} is in use by process ${holder.pid} on ${holder.host}. If nothing runs there any more, delete ${file}; ` +
        'otherwise choose another directory: WINDLASS_DATA_DIR=….',
    );
  }
  if (holder !== undefined && isRunning(holder)) {
    throw new DataDirLockedError(
      `Windlass is running in ${dir} already, as process ${holder.pid}. Stop it first (Ctrl-C there, or \`kill ${holder.pid}\`), ` +
        'or start a second one beside it: WINDLASS_DATA_DIR=.windlass-2 npm start -- --port 8081',
    );
  }
  const stale = join(dir, `lock.${process.pid}.stale`);
  try {
    renameSync(file, stale);
  } catch {
    return; // Somebody else was faster; look again.
  }
  // Between the reading and the renaming somebody may have taken it over: then it is theirs.
  if (readText(stale) !== text) tryLink(stale, file);
  rmSync(stale, { force: true });
}

function parse(text: string): Holder | undefined {
  try {
    return holderSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
