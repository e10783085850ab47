import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test, vi } from 'vitest';
import { emptyTree, removeTree } from './remove-tree.ts';

test('deletes everything in a directory and follows no link out of it', async () => {
  const { dir, outside } = setup();
  mkdirSync(join(dir, 'a/b'), { recursive: true });
  writeFileSync(join(dir, 'a/b/file'), '');
  symlinkSync(outside, join(dir, 'a/link'));
  expect(removeTree({ dir })).toBe(true);
  expect(existsSync(dir)).toBe(false);
  expect(readdirSync(outside)).toEqual(['precious']);
});

test('deletes what is closed to its owner, too deep, or has no name in UTF-8', async () => {
  const { dir } = setup();
  const deep = join(dir, ...Array.from({ length: 60 }, () => 'd'));
  mkdirSync(deep, { recursive: true });
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff])]), '');
  mkdirSync(join(dir, 'shut'));
  writeFileSync(join(dir, 'shut/file'), '');
  chmodSync(join(dir, 'shut'), 0);
  expect(removeTree({ dir })).toBe(true);
  expect(existsSync(dir)).toBe(false);
});

test.runIf(process.platform === 'linux')(
  'empties a directory, follows no link out of it, and moves it',
  () => {
    const { dir, outside } = setup();
    mkdirSync(join(dir, 'a/b'), { recursive: true });
    writeFileSync(join(dir, 'a/b/file'), '');
    symlinkSync(outside, join(dir, 'link'));
    expect(emptyTree({ dir, to: `${dir}-2` })).toBe(true);
    expect(existsSync(dir)).toBe(false);
    expect(readdirSync(`${dir}-2`)).toEqual([]);
    expect(readdirSync(outside)).toEqual(['precious']);
  },
);

test('what cannot be emptied at once is not moved, and is to be removed', () => {
  const { dir } = setup();
  mkdirSync(join(dir, ...Array.from({ length: 60 }, () => 'd')), { recursive: true });
  expect(emptyTree({ dir, to: `${dir}-2` })).toBe(false);
  expect(existsSync(`${dir}-2`)).toBe(false);
  expect(removeTree({ dir })).toBe(true);
  expect(emptyTree({ dir, to: `${dir}-2` }), 'nothing is there').toBe(false);
});

test.runIf(process.platform === 'linux')('a directory that has had many names is not kept', (ctx) => {
  const { dir } = setup();
  const names = Array.from({ length: 500 }, (_, number) => join(dir, String(number).padStart(200, '0')));
  for (const name of names) writeFileSync(name, '');
  for (const name of names) rmSync(name);
  if (statSync(dir).size <= 64 * 1024) ctx.skip('directories of this file system become smaller again');
  expect(emptyTree({ dir, to: `${dir}-2` })).toBe(false);
});

test('one that has more in it than can be deleted in a moment is not kept', () => {
  const { dir } = setup();
  let nowMs = 0;
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => (nowMs += 15));
  onTestFinished(() => clock.mockRestore());
  for (let i = 0; i < 5; i += 1) writeFileSync(join(dir, String(i)), '');
  expect(emptyTree({ dir, to: `${dir}-2` })).toBe(false);
  expect(readdirSync(dir).length).toBeGreaterThan(0);
});

test('what is not there is no problem', async () => {
  const { dir } = setup();
  expect(removeTree({ dir: join(dir, 'nothing') })).toBe(true);
  expect(existsSync(dir)).toBe(true);
});

test('a host that puts links in the way of the deletion does not turn it against something else', async () => {
  const { dir, outside } = setup();
  const attackerFile = fileURLToPath(new URL('./remove-tree-attacker.ts', import.meta.url));
  const attacker = spawn(process.execPath, [attackerFile, dir, outside], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(attacker.stdout, 'data');
  try {
    for (let i = 0; i < 1_000; i += 1) {
      removeTree({ dir: join(dir, 'run'), deadlineMs: 1_000 });
      expect(readdirSync(outside)).toEqual(['precious']);
    }
  } finally {
    attacker.kill('SIGKILL');
    await once(attacker, 'close');
  }
});

test('gives up on a host that makes files faster than they are deleted, and says so', async () => {
  const { dir } = setup();
  for (let i = 0; i < 500; i += 1) writeFileSync(join(dir, String(i)), '');
  expect(removeTree({ dir, deadlineMs: 1 })).toBe(false);
  expect(removeTree({ dir })).toBe(true);
});

function setup(): { dir: string; outside: string } {
  const parent = mkdtempSync(join(tmpdir(), 'windlass-remove-'));
  onTestFinished(() => rmSync(parent, { recursive: true, force: true }));
  const dir = join(parent, 'dir');
  const outside = join(parent, 'outside');
  mkdirSync(dir);
  mkdirSync(outside);
  writeFileSync(join(outside, 'precious'), '');
  return { dir, outside };
}
