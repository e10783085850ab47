import { expect, test } from 'vitest';
import { ConfigError, readConfig } from './config.ts';

const needed = { DATABASE_URL: 'postgres://u:p@127.0.0.1/db', REDIS_URL: 'redis://127.0.0.1' };

function problemOf(env: Record<string, string>): string {
  try {
    readConfig({ ...needed, ...env });
  } catch (err) {
    if (err instanceof ConfigError) return err.message;
    throw err;
  }
  return 'none';
}

test('all problems are reported at once, each with its variable', () => {
  const problem = problemOf({
    REDIS_URL: 'localhost:6379',
    PORT: '99999',
    LOG_LEVEL: 'loud',
    WINDLASS_QUEUES: 'image=2',
  });
  expect(problem).toContain('4 problem(s)');
  for (const name of ['REDIS_URL', 'PORT', 'LOG_LEVEL', 'WINDLASS_QUEUES']) expect(problem).toContain(name);
});

test('an empty variable counts as not set, as compose files produce them', () => {
  expect(readConfig({ ...needed, PORT: '', WINDLASS_TASKS_DIR: '' })).toMatchObject({ PORT: 8080 });
});

test('WINDLASS_AUTH=off is refused on an address that others can reach', () => {
  expect(problemOf({ WINDLASS_AUTH: 'off', HOST: '0.0.0.0' })).toContain('refused on 0.0.0.0');
  expect(problemOf({ WINDLASS_AUTH: 'off', HOST: '127.0.0.1' })).toBe('none');
});

test('a crash point is refused outside of tests', () => {
  expect(problemOf({ CRASH_AT: 'run.after-claim' })).toContain('NODE_ENV=test');
});

test('slots per queue are read from one variable', () => {
  expect(readConfig({ ...needed, WINDLASS_QUEUES: 'image:2, email:20' }).WINDLASS_QUEUES).toEqual({
    image: 2,
    email: 20,
  });
});
