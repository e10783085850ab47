import { spawnSync } from 'node:child_process';
import {
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openPlainFile } from './open-plain-file.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(realpathSync(tmpdir()), 'plain-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

test('a plain file is opened, with its size', () => {
  const path = join(dir, 'file');
  writeFileSync(path, 'abc');
  const { fd, sizeBytes } = openPlainFile(path);
  closeSync(fd);
  expect(sizeBytes).toBe(3);
});

test('what is none is said by name, and not opened', () => {
  const at = (name: string) => join(dir, name);
  writeFileSync(at('secret'), 'not for the task');
  symlinkSync(at('secret'), at('link'));
  linkSync(at('secret'), at('second-name'));
  mkdirSync(at('directory'));
  spawnSync('mkfifo', [at('pipe')]);
  for (const name of ['link', 'directory', 'pipe'])
    expect(() => openPlainFile(at(name))).toThrow('it is not a plain file');
  expect(() => openPlainFile(at('second-name'))).toThrow('it is a hard link to another file');
  expect(() => openPlainFile(at('nothing'))).toThrow(expect.objectContaining({ code: 'ENOENT' }));
});

test.runIf(process.platform === 'linux')('a directory that became a link leads nowhere', () => {
  const run = join(dir, 'run');
  mkdirSync(run);
  mkdirSync(join(dir, 'elsewhere'));
  writeFileSync(join(dir, 'elsewhere', 'file'), 'what the link leads to');
  renameSync(run, `${run}.old`);
  symlinkSync(join(dir, 'elsewhere'), run);
  expect(() => openPlainFile(join(run, 'file'))).toThrow('it is not where it should be');
});
