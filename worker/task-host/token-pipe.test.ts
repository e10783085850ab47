import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { openTokenPipe, readToken, tokenFd } from './token-pipe.ts';

describe.runIf(process.platform === 'linux')('a token pipe', () => {
  test('a token is there for one of the two, and never waited for', async () => {
    const { pipe, dir } = await start();
    expect(readdirSync(dir)).toEqual([]);
    const [first, second] = [uuidv7(), uuidv7()];
    expect([pipe.takeBack(first), readToken(pipe.hostFd)]).toEqual([false, undefined]);
    expect(pipe.put(first)).toBe(true);
    expect([readToken(pipe.hostFd), pipe.takeBack(first)]).toEqual([first, false]);
    pipe.put(second);
    expect([pipe.takeBack(second), readToken(pipe.hostFd)]).toEqual([true, undefined]);
  });

  test('a host that changes its end, or fills the pipe, does not stop the worker', async () => {
    const { pipe } = await start();
    // A child's standard input is made to wait by whoever starts it. With one end for both, so would ours be.
    spawnSync('true', { stdio: [pipe.hostFd, 'ignore', 'ignore'] });
    expect(pipe.takeBack(uuidv7())).toBe(false);
    const fill = `dd if=/dev/zero of=/proc/self/fd/${tokenFd} bs=65536 count=1 oflag=nonblock`;
    const stdio = ['ignore', 'ignore', 'ignore', 'ignore', pipe.hostFd] as const;
    expect(spawnSync('/bin/sh', ['-c', fill], { stdio: [...stdio] }).status).toBe(0);
    expect(pipe.put(uuidv7())).toBe(false);
  });

  test('nothing is read from or written to what was opened after it was closed', async () => {
    const { pipe } = await start();
    pipe.closeHostFd();
    const token = uuidv7();
    expect(pipe.put(token)).toBe(true);
    pipe.close();
    expect([pipe.put(token), pipe.takeBack(token)]).toEqual([false, false]);
  });
});

async function start() {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-tokens-'));
  const pipe = await openTokenPipe(dir);
  if (pipe === undefined) throw new Error('mkfifo is missing.');
  onTestFinished(() => {
    pipe.close();
    rmSync(dir, { recursive: true });
  });
  return { pipe, dir };
}
