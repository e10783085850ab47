import { openSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { putOpened } from './fs-put-thread.ts';

/** Of this thread, since it began. */
function countReads(): number {
  return Number(/syscr: (\d+)/.exec(readFileSync('/proc/thread-self/io', 'utf8'))?.[1]);
}

test.runIf(process.platform === 'linux')(
  'a file that was empty when it was opened and grew is not read byte by byte',
  async () => {
    const dir = await mkdtemp(join(tmpdir(), 'put-'));
    onTestFinished(() => rm(dir, { recursive: true }));
    const source = join(dir, 'source');
    writeFileSync(source, '');
    const fd = openSync(source, 'r');
    const bytes = Buffer.alloc(256 * 1024, 1);
    writeFileSync(source, bytes);
    const before = countReads();
    const path = join(dir, 'stored');
    const stored = putOpened({
      fd,
      sizeBytes: 0,
      sizeBytesMax: bytes.length,
      part: join(dir, 'part'),
      path,
      mode: 0o600,
    });
    expect(countReads() - before).toBeLessThan(100);
    expect(stored).toMatchObject({ sizeBytes: bytes.length });
    expect(readFileSync(path).equals(bytes)).toBe(true);
  },
);
