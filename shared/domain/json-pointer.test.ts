import { expect, test } from 'vitest';
import { resolveRef, toPath, toPointer } from './json-pointer.ts';

test.each([
  { path: [], pointer: '' },
  { path: ['a', 'b'], pointer: '/a/b' },
  { path: [''], pointer: '/' },
  { path: ['a/b', 'm~n', '~1'], pointer: '/a~1b/m~0n/~01' },
])('$pointer is the pointer to $path, and back', ({ path, pointer }) => {
  expect(toPointer(path)).toBe(pointer);
  expect(toPath(pointer)).toEqual(path);
});

test('numbers are indices of items', () => {
  expect(toPointer(['items', 0])).toBe('/items/0');
});

test('a reference is resolved in its own document, and nowhere else', () => {
  const schema = { $defs: { 'a/b': { type: 'string' }, '': { type: 'null' } } };
  expect(resolveRef(schema, '#')).toBe(schema);
  expect(resolveRef(schema, '#/$defs/a~1b')).toEqual({ type: 'string' });
  expect(resolveRef(schema, '#/$defs/')).toEqual({ type: 'null' });
  expect(resolveRef(schema, '#/$defs/c')).toBeUndefined();
  expect(resolveRef(schema, '#/$defs/constructor')).toBeUndefined();
  expect(resolveRef(schema, '#anchor')).toBeUndefined();
  expect(resolveRef(schema, 'https://example.com/#/$defs/a~1b')).toBeUndefined();
});
