import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { prepareRun, readTaskFile } from './run-files.ts';

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

test('inputs are linked into the directory of a run, and those that cannot be are named', () => {
  const parent = mkdtempSync(join(realpathSync(tmpdir()), 'files-'));
  onTestFinished(() => rmSync(parent, { recursive: true }));
  const source = join(parent, 'stored');
  writeFileSync(source, 'bytes');
  const dir = join(parent, 'run');
  const inputs = [
    { id: 'a', source },
    { id: 'b', source: join(parent, 'nothing') },
    { id: 'c', source: undefined },
  ];
  expect(prepareRun({ dir, inputs })).toEqual(['b', 'c']);
  expect(readFileSync(join(dir, 'a'), 'utf8')).toBe('bytes');
  expect(statSync(dir).mode & 0o7777).toBe(0o2770);
  expect(() => prepareRun({ dir, inputs })).toThrow('EEXIST');
});

test('a spare directory becomes the one of the run, and where it is gone a new one is made', () => {
  const parent = mkdtempSync(join(realpathSync(tmpdir()), 'files-'));
  onTestFinished(() => rmSync(parent, { recursive: true }));
  const spare = join(parent, 'spare-1');
  mkdirSync(spare, { mode: 0o711 });
  const { ino } = statSync(spare);
  expect(prepareRun({ dir: join(parent, 'run-1'), spare, inputs: [] })).toEqual([]);
  expect(statSync(join(parent, 'run-1'))).toMatchObject({ ino });
  expect(prepareRun({ dir: join(parent, 'run-2'), spare, inputs: [] })).toEqual([]);
  for (const run of ['run-1', 'run-2']) expect(statSync(join(parent, run)).mode & 0o7777).toBe(0o2770);
});
