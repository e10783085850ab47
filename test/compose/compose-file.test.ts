import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { configSchema, testSettings } from '#shared/config.ts';
import { root } from './docker.ts';

const composeFile = readFileSync(`${root}docker-compose.yml`, 'utf8');
const images = ['Dockerfile.api', 'Dockerfile.worker']
  .map((file) => readFileSync(root + file, 'utf8'))
  .join('\n');

test('every option can be set from .env, but for those that belong to the image', () => {
  const setByImage = [
    'HOST',
    'PORT',
    'WINDLASS_DATA_DIR',
    'WINDLASS_TASKS_DIR',
    'WINDLASS_HEALTH_PORT',
    'NODE_COMPILE_CACHE',
  ];
  expect(setByImage.filter((name) => !new RegExp(`(ENV|^) +${name}=`, 'm').test(images))).toEqual([]);
  // Refused on an address that others can reach, which that of a container has to be; and those for tests.
  const without = new Set([...setByImage, 'WINDLASS_AUTH', ...testSettings]);
  const missing = Object.keys(configSchema.shape).filter(
    (name) => !without.has(name) && !new RegExp(`^ +${name}:`, 'm').test(composeFile),
  );
  expect(missing).toEqual([]);
});

test('.env.example names only what the compose file reads', () => {
  const names = [...readFileSync(`${root}.env.example`, 'utf8').matchAll(/^#?([A-Z][A-Z_]+)=/gm)].map(
    ([, name]) => name,
  );
  expect(names.length).toBeGreaterThan(10);
  expect(names.filter((name) => !new RegExp(`\\$\\{${name}:-|^ +${name}:`, 'm').test(composeFile))).toEqual(
    [],
  );
});
