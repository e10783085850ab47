import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DataDirUnusableError, lockDataDir } from './data-dir-lock.ts';

let dir: string;
const starters: ChildProcess[] = [];

beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), 'windlass-lock-')), 'data');
});

afterEach(() => {
  for (const starter of starters.splice(0)) starter.kill('SIGKILL');
  rmSync(join(dir, '..'), { recursive: true, force: true });
});

test('a path that cannot be a directory is answered with a sentence that names the variable', () => {
  writeFileSync(dir, 'a file');
  for (const path of [dir, join(dir, 'below')]) {
    expect(() => lockDataDir(path)).toThrow(DataDirUnusableError);
    expect(() => lockDataDir(path)).toThrow(`All data is kept in ${path}, and that cannot be used: E`);
    expect(() => lockDataDir(path)).toThrow('WINDLASS_DATA_DIR');
  }
});

test('the second is refused and learns who holds the directory, until the first lets go', () => {
  const unlock = lockDataDir(dir);
  expect(() => lockDataDir(dir)).toThrow(
    `Windlass is running in ${dir} already, as process ${process.pid}. Stop it first (Ctrl-C there, or \`kill ${process.pid}\`), ` +
      'or start a second one beside it: WINDLASS_DATA_DIR=.windlass-2 npm start -- --port 8081',
  );
  unlock();
  lockDataDir(dir)();
});

test('a process that was killed holds nothing any more', async () => {
  const [starter] = await start(1);
  const answer = once(starter, 'message');
  starter.send('go');
  expect(await answer).toEqual(['got it', undefined]);
  expect(() => lockDataDir(dir)).toThrow(`as process ${starter.pid}.`);
  starter.kill('SIGKILL');
  await once(starter, 'exit');
  lockDataDir(dir)();
});

test('of several that start at the same moment, after one that was killed, exactly one gets it', async () => {
  const [killed, ...racers] = await start(5);
  const first = once(killed, 'message');
  killed.send('go');
  await first;
  const answers = racers.map((racer) => once(racer, 'message'));
  const end = once(killed, 'exit');
  killed.kill('SIGKILL');
  await end;
  for (const racer of racers) racer.send('go');
  const said = (await Promise.all(answers)).map(([answer]) => String(answer));
  expect(said.toSorted()).toEqual([
    'DataDirLockedError',
    'DataDirLockedError',
    'DataDirLockedError',
    'got it',
  ]);
});

/** Processes that take the lock, and keep it, when they are told to. */
async function start(count: number): Promise<[ChildProcess, ...ChildProcess[]]> {
  const code = `
    import { lockDataDir } from '#scripts/start/data-dir-lock.ts';
    process.once('message', () => {
      try { lockDataDir(${JSON.stringify(dir)}); process.send('got it'); } catch (err) { process.send(err.name); }
    });
    process.on('message', () => {});
    process.send('ready');
  `;
  const spawnOne = () =>
    spawn(process.execPath, ['--input-type=module-typescript', '--eval', code], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
  const made: [ChildProcess, ...ChildProcess[]] = [
    spawnOne(),
    ...Array.from({ length: count - 1 }, spawnOne),
  ];
  starters.push(...made);
  await Promise.all(made.map((starter) => once(starter, 'message')));
  return made;
}
