import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { entryName, readEntryPath } from './entry-path.ts';

describe('ASVS 5.3.2: a path that leads out of the archive is no path', () => {
  it.each([
    '../etc/passwd',
    'a/../../b',
    'a/..',
    '..',
    '/etc/passwd',
    '//server/share',
    '\\\\server\\share',
    '\\windows\\system.ini',
    'a\\..\\..\\b',
    'C:/windows',
    'c:windows',
    'a\0b',
    'a\nb',
    'Icon\r',
    'a\u001b[2Jb',
    'a\ud800b',
    '',
    './',
    '.',
  ])('%j', (raw) => {
    expect(readEntryPath(raw)).toEqual({ reason: 'unsafe-path' });
  });

  it.each([
    ['a/b.txt', 'a/b.txt'],
    ['./a//b/./c.txt', 'a/b/c.txt'],
    ['..a/b..', '..a/b..'],
    ['...', '...'],
    ['caf\u0065\u0301.txt', 'café.txt'],
    ['a\\b.txt', 'a\\b.txt'],
    [' .ssh', ' .ssh'],
  ])('%j is the path %j', (raw, path) => {
    expect(readEntryPath(raw)).toEqual({ path });
  });

  it('a path that is longer than file systems take is no path either', () => {
    expect(readEntryPath('ä'.repeat(512))).toHaveProperty('path');
    expect(readEntryPath('ä'.repeat(513))).toEqual({ reason: 'path-too-long' });
  });
});

it('a name has at most 255 bytes, keeps its extension and is never a path', () => {
  expect(entryName('a/b/c.txt')).toBe('c.txt');
  expect(entryName('a\\b\\c.txt')).toBe('c.txt');
  expect(entryName('a/ b.txt ')).toBe('b.txt');
  expect(entryName('a/  ')).toBe('file');
  const long = entryName(`x/${'ä'.repeat(300)}.tar.gz`);
  expect(Buffer.byteLength(long)).toBeLessThanOrEqual(255);
  expect(long).toMatch(/^ä+\.gz$/);
  fc.assert(
    fc.property(fc.string({ unit: 'binary', minLength: 1, maxLength: 600 }), (raw) => {
      const place = readEntryPath(raw);
      if (!('path' in place)) return;
      const name = entryName(place.path);
      expect(name).not.toBe('');
      expect(name).not.toMatch(/[/\\\0]/);
      expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255);
    }),
  );
});
