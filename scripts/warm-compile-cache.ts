/**
 * Fills Node's compile cache while an image is built: `node scripts/warm-compile-cache.ts <main.ts> [<uid>-<uid>]`.
 *
 * Loads the main module with everything it imports, and stops where it reads its configuration, of which there is none yet. For a
 * worker the handlers are loaded too, and a task host is started. A module that is missing in the image fails the
 * build here, not at the first job.
 *
 * Node keeps a directory per user id, because it would not trust what another user may change. The image belongs to
 * root and is read-only, so the users in the given range get links to the directory of the one who builds.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, symlink } from 'node:fs/promises';
import { flushCompileCache, getCompileCacheDir } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [main = '', users = ''] = process.argv.slice(2);
const cache = getCompileCacheDir();
if (cache === undefined || process.getuid === undefined)
  throw new Error('NODE_COMPILE_CACHE is not set, or of no use here.');

await loadMain(pathToFileURL(resolve(main)).href);
if (main.startsWith('worker/')) {
  await loadHandlers(pathToFileURL(resolve('tasks/handlers.ts')).href);
  await startTaskHost(resolve('worker/task-host/main.ts'));
}
flushCompileCache();
await linkForUsers(cache, users);
console.log(`${(await readdir(cache)).length} compiled modules in ${cache}`);
// Whatever the modules started while loading must not keep the build waiting.
process.exit(0);

async function loadMain(url: string): Promise<void> {
  try {
    await import(url);
  } catch (err) {
    if (err instanceof Error && err.name === 'ConfigError') return;
    throw err;
  }
  throw new Error(`${main} started: it was given a configuration, which is no part of an image.`);
}

async function loadHandlers(url: string): Promise<void> {
  const { handlers } = (await import(url)) as { handlers: Readonly<Record<string, () => Promise<unknown>>> };
  for (const load of Object.values(handlers)) await load();
}

/** Ends with its socket, when it has said that it is ready. */
async function startTaskHost(file: string): Promise<void> {
  const host = spawn(process.execPath, [file], { stdio: ['ignore', 'inherit', 'inherit', 'pipe'] });
  const socket = host.stdio[3];
  if (socket === null || socket === undefined) throw new Error('The task host has no socket.');
  const ended = once(host, 'exit');
  socket.once('data', () => socket.destroy());
  const [code] = (await ended) as [number | null];
  if (code !== 0) throw new Error(`The task host ended with code ${code} instead of being ready.`);
}

async function linkForUsers(dir: string, range: string): Promise<void> {
  const [first = NaN, last = first] = range === '' ? [] : range.split('-').map(Number);
  const name = basename(dir);
  const withoutUser = name.slice(0, name.lastIndexOf('-'));
  for (let uid = first; uid <= last; uid += 1)
    await symlink(name, join(dirname(dir), `${withoutUser}-${uid}`));
}
