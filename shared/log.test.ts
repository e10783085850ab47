import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

/** What a process writes that logs these fields. */
function logged(fields: string): Record<string, unknown> {
  const url = new URL('./log.ts', import.meta.url).href;
  const { stdout } = spawnSync(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { createLogger } from '${url}';
       createLogger({ service: 'test', level: 'info' }).child({ workerId: 'w' }).info(${fields}, 'said');`,
    ],
    { cwd: fileURLToPath(new URL('..', import.meta.url)), encoding: 'utf8' },
  );
  return JSON.parse(stdout) as Record<string, unknown>;
}

test('fields with the names of secrets are hidden, at the top and one level below, and others are not', () => {
  expect(
    logged(
      `{ key: 'a', password: 'b', headers: { authorization: 'c', cookie: 'd', host: 'h' }, jobId: 'j', list: ['k'] }`,
    ),
  ).toMatchObject({
    service: 'test',
    workerId: 'w',
    msg: 'said',
    key: '[redacted]',
    password: '[redacted]',
    headers: { authorization: '[redacted]', cookie: '[redacted]', host: 'h' },
    jobId: 'j',
    list: ['k'],
  });
});

test('an error is shown with its message and stack', () => {
  expect(logged(`{ err: new Error('broken') }`)).toMatchObject({
    err: { type: 'Error', message: 'broken', stack: expect.stringContaining('Error: broken') as unknown },
  });
});
