import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { readTaskFile } from './run-files.ts';

test('a file of a task is read up to its limit and no further', () => {
  const dir = mkdtempSync(join(realpathSync(tmpdir()), 'files-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 'result.json');
  writeFileSync(path, 'äöü');
  expect(readTaskFile({ path, bytesMax: 6 })).toBe('äöü');
  expect(readTaskFile({ path, bytesMax: 5 })).toBeUndefined();
});

// What the system makes up has no size until it is read, like a file that grows between the look at it and the reading.
test.runIf(process.platform === 'linux')(
  'a file that has become larger since it was looked at is not read, whatever its size',
  () => {
    const read = () => readTaskFile({ path: `/proc/${process.pid}/status`, bytesMax: 10 });
    expect(read).toThrow('it changed while it was being read');
  },
);
