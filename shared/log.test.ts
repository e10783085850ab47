import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
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

test('F80: a process whose stdout is a full pipe that nobody reads goes on with a bounded memory, and says later how many lines were dropped', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-log-'));
  const pipe = join(dir, 'stdout');
  execFileSync('mkfifo', [pipe]);
  const url = new URL('./log.ts', import.meta.url).href;
  const child = spawn(
    'sh',
    [
      '-c',
      // For reading as well, so that opening it waits for nobody.
      'exec 1<>"$0"; exec "$@"',
      pipe,
      process.execPath,
      '--expose-gc',
      '--input-type=module',
      '-e',
      `import { setImmediate as turn } from 'node:timers/promises';
       import { createLogger } from '${url}';
       const log = createLogger({ service: 'test', level: 'info' });
       gc();
       const before = process.memoryUsage().heapUsed;
       for (let n = 1; n <= 100_000; n += 1) {
         log.info({ n, text: 'x'.repeat(500) }, 'said');
         if (n % 1_000 === 0) await turn();
       }
       gc();
       process.send({ grownBytes: process.memoryUsage().heapUsed - before });
       process.on('message', () => process.exit(0));`,
    ],
    {
      cwd: fileURLToPath(new URL('..', import.meta.url)),
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    },
  );
  try {
    const exited = once(child, 'exit');
    const [{ grownBytes }] = (await once(child, 'message')) as [{ grownBytes: number }];
    // 60 MB were logged, and 4 MiB may wait.
    expect(grownBytes).toBeLessThan(20_000_000);
    let read = 0;
    let dropped = 0;
    const reader = createReadStream(pipe, 'utf8');
    for await (const line of createInterface({ input: reader })) {
      const entry = JSON.parse(line) as { n?: number; lines?: number };
      if (entry.n !== undefined) read += 1;
      dropped = entry.lines ?? 0;
      if (dropped > 0) break;
    }
    expect(read).toBeGreaterThan(0);
    expect(read + dropped).toBe(100_000);
    child.send('end');
    expect(await exited).toEqual([0, null]);
  } finally {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true });
  }
});
