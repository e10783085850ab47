/**
 * Adds to package-lock.json the packages of other platforms that npm left out, because the registry it asked did not have
 * them. Without them `npm ci` refuses the lockfile as out of sync, on every machine. What is added has no
 * checksum, which npm fills in where it does find the package.
 *
 *   node scripts/setup.mjs complete-lockfile && npm install --package-lock-only
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { z } from 'zod';

const lockSchema = z.looseObject({
  packages: z.record(
    z.string(),
    z.looseObject({ optionalDependencies: z.record(z.string(), z.string()).optional() }),
  ),
});
export type Lockfile = z.infer<typeof lockSchema>;

export const lockfile = new URL('../package-lock.json', import.meta.url);

export function readLockfile(): Lockfile {
  return lockSchema.parse(JSON.parse(readFileSync(lockfile, 'utf8')));
}

/** Optional dependencies that no package of the lockfile answers for, as name → version. */
export function findMissing(lock: Lockfile): Map<string, string> {
  const missing = new Map<string, string>();
  for (const [path, { optionalDependencies = {} }] of Object.entries(lock.packages)) {
    for (const [name, version] of Object.entries(optionalDependencies)) {
      const isLocked = placesOf(name, path).some((place) => lock.packages[place] !== undefined);
      // A range cannot be locked without asking a registry; packages of platforms are pinned by their makers.
      if (!isLocked && /^\d/.test(version)) missing.set(name, version);
    }
  }
  return missing;
}

/** Where Node looks for `name` from the package at `path`: beside it, and in every node_modules above. */
function placesOf(name: string, path: string): string[] {
  const places = [`${path}/node_modules/${name}`];
  for (
    let end = path.lastIndexOf('node_modules/');
    end > 0;
    end = path.lastIndexOf('node_modules/', end - 1)
  ) {
    places.push(`${path.slice(0, end)}node_modules/${name}`);
  }
  return [...places, `node_modules/${name}`];
}

const systems = new Set(['aix', 'android', 'darwin', 'freebsd', 'linux', 'openharmony', 'win32']);

/** What the package is for, read from its name: `…-linux-x64-musl`. npm skips it elsewhere. */
export function platformOf(name: string): { os?: string[]; cpu?: string[]; libc?: string[] } {
  const words = name.slice(name.indexOf('/') + 1).split('-');
  const at = words.findIndex((word) => systems.has(word));
  const [os, cpu, abi = ''] = at === -1 ? [] : words.slice(at);
  if (os === undefined || cpu === undefined) return {};
  const libc = abi.startsWith('musl')
    ? ['musl']
    : abi.startsWith('gnu') && os === 'linux'
      ? ['glibc']
      : undefined;
  return { os: [os], cpu: [cpu], ...(libc !== undefined && { libc }) };
}

if (import.meta.main) {
  const lock = readLockfile();
  const missing = findMissing(lock);
  for (const [name, version] of missing) {
    lock.packages[`node_modules/${name}`] = { version, optional: true, ...platformOf(name) };
  }
  writeFileSync(lockfile, `${JSON.stringify(lock, null, 2)}\n`);
  process.stdout.write(`${missing.size} packages of other platforms were added to package-lock.json.\n`);
}
