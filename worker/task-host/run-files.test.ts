import { mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { handOver, prepareRun, readTaskFile } from './run-files.ts';

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

test('the directory of a run is handed over when all of its inputs are in it, and stays ours before', () => {
  const hostDir = mkdtempSync(join(realpathSync(tmpdir()), 'files-'));
  onTestFinished(() => rmSync(hostDir, { recursive: true }));
  const source = join(hostDir, 'stored');
  writeFileSync(source, 'bytes');
  const inputs = [
    { id: 'a', source },
    { id: 'b', source: join(hostDir, 'nothing') },
    { id: 'c', source: undefined },
  ];
  const modeOf = (path: string) => statSync(path).mode & 0o7777;
  const waiting = prepareRun({ hostDir, name: 'waiting', uid: undefined, inputs });
  expect(waiting.missing).toEqual(['b', 'c']);
  expect(readFileSync(join(waiting.runDir.inDir, 'a'), 'utf8')).toBe('bytes');
  expect(modeOf(waiting.runDir.dir)).toBe(0o700);
  handOver({ runDir: waiting.runDir, uid: undefined });
  expect(modeOf(waiting.runDir.dir)).toBe(0o2770);
  const ready = prepareRun({ hostDir, name: 'ready', uid: undefined, inputs: inputs.slice(0, 1) });
  expect(ready.missing).toEqual([]);
  expect([ready.runDir.dir, ready.runDir.inDir].map(modeOf)).toEqual([0o2770, 0o755]);
});
