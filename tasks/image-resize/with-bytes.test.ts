import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { withBytes } from './with-bytes.ts';

function files() {
  const dir = mkdtempSync(join(tmpdir(), 'bytes-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return (name: string, bytes: Buffer) => {
    const path = join(dir, name);
    writeFileSync(path, bytes);
    return { id: name, name, mediaType: 'image/jpeg', sizeBytes: bytes.length, sha256: '', path };
  };
}

test('one buffer serves one file after the other, and each sees its own bytes and no more', async () => {
  const file = files();
  const sizes = [3, 2_000_000, 5, 0];
  const buffers: unknown[] = [];
  for (const size of sizes) {
    const content = Buffer.alloc(size, String(size));
    await withBytes(file(String(size), content), async (bytes) => {
      expect(content.equals(bytes as Buffer), `${size} bytes`).toBe(true);
      buffers.push((bytes as Buffer).buffer);
    });
  }
  expect(buffers[2]).toBe(buffers[1]);
  expect(buffers[3]).toBe(buffers[1]);
});

test('who reads at the same time has another buffer, and so does who reads while one fails', async () => {
  const file = files();
  const [first, second] = [file('a', Buffer.from('first')), file('b', Buffer.from('other'))];
  const failure = withBytes(first, async (mine) => {
    await withBytes(second, async (others) => expect(String(others)).toBe('other'));
    expect(String(mine)).toBe('first');
    throw new Error('damaged');
  });
  await expect(failure).rejects.toThrow('damaged');
  await withBytes(second, async (bytes) => expect(String(bytes)).toBe('other'));
});

test('a large file is not read, its path is lent', async () => {
  const large = files()('large', Buffer.alloc(8 * 1024 * 1024 + 1));
  await withBytes(large, async (bytes) => expect(bytes).toBe(large.path));
});
