import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { identifyProcess } from '#scripts/process-identity.ts';
import { lockDataDir } from './data-dir-lock.ts';

let dir: string;

beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), 'windlass-lock-')), 'data');
});

afterEach(() => {
  rmSync(join(dir, '..'), { recursive: true, force: true });
});

test('the second is refused and learns who holds the directory, until the first lets go', () => {
  const unlock = lockDataDir(dir);
  expect(() => lockDataDir(dir)).toThrow(`is running in ${dir} already, as process ${process.pid}.`);
  unlock();
  lockDataDir(dir)();
  expect(readdirSync(dir)).toEqual([]);
});

test('a lock whose process is gone does not count', async () => {
  const holder = spawn('sleep', ['1000']);
  await once(holder, 'spawn');
  writeLock({ ...identifyProcess(holder.pid ?? 0), host: hostname() });
  expect(() => lockDataDir(dir)).toThrow(`as process ${holder.pid}.`);
  holder.kill();
  await once(holder, 'exit');
  lockDataDir(dir)();
});

test('a lock whose pid now belongs to another process does not count', () => {
  writeLock({ pid: process.pid, startedAt: 'before this process', host: hostname() });
  lockDataDir(dir)();
});

test('a lock that was cut short by a crash does not count', () => {
  writeLock('');
  lockDataDir(dir)();
});

test('a lock of another machine is left alone, and the message says what to do', () => {
  writeLock({ pid: 1, startedAt: 'some time', host: 'elsewhere' });
  expect(() => lockDataDir(dir)).toThrow(
    `process 1 on elsewhere. If nothing runs there any more, delete ${join(dir, 'lock')}`,
  );
});

test('of many that find the same stale lock at the same time, one gets it', async () => {
  writeLock({ pid: process.pid, startedAt: 'before this process', host: hostname() });
  const code = `
    import { lockDataDir } from '#scripts/start/data-dir-lock.ts';
    process.once('message', () => {
      try { lockDataDir(${JSON.stringify(dir)}); process.send('got it'); } catch (err) { process.send(err.name); }
    });
    process.send('ready');
  `;
  const racers = Array.from({ length: 4 }, () =>
    spawn(process.execPath, ['--input-type=module-typescript', '--eval', code], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    }),
  );
  try {
    await Promise.all(racers.map((racer) => once(racer, 'message')));
    const answers = racers.map((racer) => once(racer, 'message'));
    for (const racer of racers) racer.send('go');
    const said = (await Promise.all(answers)).map(([answer]) => String(answer));
    expect(said.toSorted()).toEqual([
      'DataDirLockedError',
      'DataDirLockedError',
      'DataDirLockedError',
      'got it',
    ]);
  } finally {
    for (const racer of racers) racer.kill('SIGKILL');
  }
});

function writeLock(content: unknown): void {
  lockDataDir(dir)();
  writeFileSync(join(dir, 'lock'), content === '' ? '' : JSON.stringify(content));
}
