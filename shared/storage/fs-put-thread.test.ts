import { existsSync, fstatSync, openSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { putOpened } from './fs-put-thread.ts';

test('a file that has become larger since it was opened is not stored', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'put-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  const source = join(dir, 'source');
  writeFileSync(source, 'small');
  const target = { sizeBytesMax: 1024 ** 3, part: join(dir, 'part'), path: join(dir, 'stored'), mode: 0o600 };
  const opened = { fd: openSync(source, 'r'), sizeBytes: 5 };
  truncateSync(source, 1024 ** 3);
  expect(putOpened({ ...opened, ...target })).toBeUndefined();
  expect(existsSync(target.path)).toBe(false);
  expect(statSync(target.part).size).toBe(0);
  expect(() => fstatSync(opened.fd)).toThrow('EBADF');
});
