import { expect, test } from 'vitest';
import { findMissing, platformOf, readLockfile } from './complete-lockfile.ts';

test('package-lock.json names a package for every optional dependency, or `npm ci` refuses it: run complete-lockfile', () => {
  expect([...findMissing(readLockfile())]).toEqual([]);
});

test('an optional dependency counts as locked wherever Node would find it', () => {
  const dependent = {
    optionalDependencies: { 'a-linux-x64': '1.0.0', 'b-linux-x64': '2.0.0', 'c-linux-x64': '3.0.0', d: '^1' },
  };
  const packages = {
    'node_modules/x/node_modules/y': dependent,
    'node_modules/x/node_modules/y/node_modules/a-linux-x64': {},
    'node_modules/x/node_modules/b-linux-x64': {},
    'node_modules/z/node_modules/c-linux-x64': {},
  };
  expect([...findMissing({ packages })]).toEqual([['c-linux-x64', '3.0.0']]);
  expect([...findMissing({ packages: { ...packages, 'node_modules/c-linux-x64': {} } })]).toEqual([]);
});

test.each([
  ['@scope/binding-darwin-arm64', { os: ['darwin'], cpu: ['arm64'] }],
  ['@scope/binding-linux-x64-musl', { os: ['linux'], cpu: ['x64'], libc: ['musl'] }],
  ['@scope/binding-linux-arm-gnueabihf', { os: ['linux'], cpu: ['arm'], libc: ['glibc'] }],
  ['@scope/binding-win32-x64-msvc', { os: ['win32'], cpu: ['x64'] }],
  ['fsevents', {}],
])('the platform of %s is read from its name', (name, platform) => {
  expect(platformOf(name)).toEqual(platform);
});
