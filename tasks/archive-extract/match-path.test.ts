import fc from 'fast-check';
import { expect, it } from 'vitest';
import { createMatcher } from './match-path.ts';

it.each([
  ['*.jpg', 'a.jpg', true],
  ['*.jpg', 'photos/2024/a.jpg', true],
  ['*.jpg', 'IMG_0001.JPG', true],
  ['*.jpg', 'a.jpg/readme', false],
  ['*.jpg', 'a.jpgx', false],
  ['readme', 'docs/README', true],
  ['photos/*.jpg', 'photos/a.jpg', true],
  ['photos/*.jpg', 'photos/2024/a.jpg', false],
  ['photos/*.jpg', 'old/photos/a.jpg', false],
  ['photos/**', 'photos/2024/a.jpg', true],
  ['photos/**', 'photos', true],
  ['**/a.jpg', 'a.jpg', true],
  ['**/2024/**/*.jpg', 'x/2024/a/b/c.jpg', true],
  ['**/2024/**/*.jpg', 'x/2025/a/b/c.jpg', false],
  ['a/**/b/**/c', 'a/b/x/b/y/c', true],
  ['a?c', 'a😀c', true],
  ['a?c', 'ac', false],
  ['./a', 'a', true],
  ['/a/b', 'a/b', true],
  ['a.b', 'axb', false],
  ['a**b', 'axxb', true],
  ['*a*b', 'xaxxb', true],
  ['*', '.hidden', true],
  ['caf\u0065\u0301*', 'café.txt', true],
])('%s against %s: %s', (pattern, path, isMatch) => {
  expect(createMatcher(pattern)(path)).toBe(isMatch);
});

it('a list matches what any of its patterns matches, and an empty one nothing', () => {
  expect(createMatcher(['*.png', '*.jpg'])('a.jpg')).toBe(true);
  expect(createMatcher([])('a.jpg')).toBe(false);
});

it('agrees with a regular expression wherever that is fast', () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '.'), maxLength: 8 });
  const pattern = fc.string({ unit: fc.constantFrom('a', 'b', '.', '*', '?'), minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(pattern, text, (glob, name) => {
      fc.pre(name !== '' && glob !== '**' && glob !== '.' && name !== '.');
      const source = glob
        .replaceAll('.', String.raw`\.`)
        .replaceAll('*', '.*')
        .replaceAll('?', '.');
      expect(createMatcher(glob)(name)).toBe(new RegExp(`^${source}$`, 'u').test(name));
    }),
  );
});
