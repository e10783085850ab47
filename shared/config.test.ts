import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
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

test('what only tests may set is refused elsewhere', () => {
  expect(problemOf({ CRASH_AT: 'run.after-claim' })).toContain('NODE_ENV=test');
  expect(problemOf({ BUNDLE_SIZE: '4' })).toContain('NODE_ENV=test');
});

test('slots per queue are read from one variable', () => {
  expect(readConfig({ ...needed, WINDLASS_QUEUES: 'image:2, email:20' }).WINDLASS_QUEUES).toEqual({
    image: 2,
    email: 20,
  });
});

test('a secret is read from the file that is named instead, and a value that is given wins', () => {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-config-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const file = join(dir, 'database-url');
  writeFileSync(file, 'postgres://u:from-file@127.0.0.1/db\n');
  const { REDIS_URL, DATABASE_URL } = needed;
  expect(readConfig({ REDIS_URL, DATABASE_URL_FILE: file }).DATABASE_URL).toBe(
    'postgres://u:from-file@127.0.0.1/db',
  );
  expect(readConfig({ ...needed, DATABASE_URL_FILE: file }).DATABASE_URL).toBe(DATABASE_URL);
});

test('a secret file that cannot be read is a problem like the others', () => {
  const problem = problemOf({ SMTP_URL_FILE: '/nowhere/smtp-url', PORT: '99999' });
  expect(problem).toContain('2 problem(s)');
  expect(problem).toContain('SMTP_URL_FILE: ENOENT');
});
