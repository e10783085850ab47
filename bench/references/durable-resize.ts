/**
 * The least that sharp costs in a service that loses nothing: each photo is claimed in Postgres, resized by a process of its
 * own that gets it as a hard link, synced to disk, and settled in Postgres while the next one runs. No queue, events, attempts,
 * leases, limits, progress, or distrust of what the process says.
 */
import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { link, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Pool } from 'pg';

const [warmUp, total] = [Number(process.env['WARM_UP']), Number(process.env['TOTAL'])];
const dir = join(process.env['DATA_DIR'] ?? '', 'durable');
const stored = join(dir, 'stored');
const db = new Pool({ connectionString: process.env['DATABASE_URL'] });
let begun = 0;
let done = 0;
let startMs = 0;

async function loop(): Promise<void> {
  const child = fork(new URL('./durable-resize-child.ts', import.meta.url));
  await once(child, 'message');
  let ending = Promise.resolve();
  while (begun < total) {
    begun += 1;
    const id = begun;
    await claim(id);
    const run = join(dir, String(id));
    await mkdir(run);
    await link(process.env['PHOTO'] ?? '', join(run, 'in'));
    child.send(run);
    const [result] = (await once(child, 'message')) as [object];
    const before = ending;
    ending = end(id, run, result);
    await before;
  }
  await ending;
  child.disconnect();
}

async function claim(id: number): Promise<void> {
  await db.query({
    name: 'claim',
    text: `UPDATE durable_resize SET state = 'active' WHERE id = $1 AND state = 'queued'`,
    values: [id],
  });
}

async function end(id: number, run: string, result: object): Promise<void> {
  const bytes = await readFile(join(run, 'out'));
  const part = join(run, 'part');
  const file = await open(part, 'wx');
  await file.write(bytes);
  await file.sync();
  await file.close();
  await rename(part, join(stored, String(id)));
  const directory = await open(stored);
  await directory.sync();
  await directory.close();
  await db.query({
    name: 'settle',
    text: `UPDATE durable_resize SET state = 'succeeded', result = $2 WHERE id = $1 AND state = 'active'`,
    values: [id, JSON.stringify({ ...result, sha256: createHash('sha256').update(bytes).digest('hex') })],
  });
  await rm(run, { recursive: true });
  done += 1;
  if (done === warmUp) startMs = performance.now();
}

await rm(dir, { recursive: true, force: true });
await mkdir(stored, { recursive: true });
await db.query('DROP TABLE IF EXISTS durable_resize');
await db.query('CREATE TABLE durable_resize (id integer PRIMARY KEY, state text NOT NULL, result json)');
await db.query(`INSERT INTO durable_resize SELECT id, 'queued' FROM generate_series(1, $1::integer) AS id`, [
  total,
]);
process.send?.({ ready: true });
await Promise.all(Array.from({ length: availableParallelism() }, loop));
const seconds = (performance.now() - startMs) / 1_000;
await db.query('DROP TABLE durable_resize');
process.send?.({ perSecond: (total - warmUp) / seconds });
process.on('SIGTERM', () => process.exit());
