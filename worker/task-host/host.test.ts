import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { io, limits, log, never, orderHandler, orderRun, startHost } from '#test/support/start-host.ts';
import { waitFor } from '#test/support/wait-for.ts';
import type { RunIo } from './host-run.ts';
import { spawnHost, type TaskHost } from './host.ts';

test('an input as large as the api accepts reaches the handler', async () => {
  const host = await startHost();
  const value = 'ä'.repeat(300_000);
  expect(await runTask(host, 'echo', { value })).toEqual({ type: 'returned' });
  // Too long for a message.
  const written = readFileSync(join(host.dir, 'run', 'result.json'), 'utf8');
  expect(written.includes(value)).toBe(true);
});

test('progress and delays that are no numbers, or have passed, are the mistake of a handler, not a broken protocol', async () => {
  const host = await startHost();
  const seen: number[] = [];
  const misreport = (total: number) =>
    runTask(host, 'misreport', { done: 0, total }, (percent) => seen.push(percent));
  const threw = { type: 'threw', kind: 'not-now', message: 'later' };
  expect(await misreport(0)).toEqual({ ...threw, delayMs: undefined });
  expect(await misreport(-1)).toEqual({ ...threw, delayMs: 0 });
  expect(seen.map(Math.abs)).toEqual([0, 0]);
  expect(host.isReusable()).toBe(true);
});

test('a soft time limit that passed before the run reached its host is told to the handler', async () => {
  const host = await startHost();
  const input = { ms: 600_000, endsSoftly: true };
  const end = await runTask(host, 'sleep', input, undefined, AbortSignal.abort());
  expect(end).toEqual({ type: 'returned', document: { result: { attempt: 1 }, outputs: [] } });
});

test('a result that JSON has no form for is the mistake of the handler', async () => {
  const host = await startHost();
  for (const result of ['() => 1', 'undefined', '{ toJSON() {} }', '1n']) {
    const end = await runHandler(host, `() => (${result})`);
    // A handler may return nothing: that is null.
    if (result === 'undefined') expect(end).toMatchObject({ document: { result: null } });
    else expect(end).toMatchObject({ type: 'threw', kind: 'bad-output' });
  }
  expect(host.isReusable()).toBe(true);
});

test.each(['returned', 'threw'])(
  'what an earlier run has left behind cannot end the next one (%s)',
  async (type) => {
    const host = await startHost();
    const said = { document: { result: 'forged', outputs: [] }, kind: 'error', message: 'forged' };
    const forged = { type, run: 'forged', ...said, rssBytes: 1, hasSpawned: false };
    const end = await runHandler(
      host,
      `(_, ctx) => {
        setTimeout(() => process.getBuiltinModule('fs').writeSync(3, '${JSON.stringify(forged)}\\n'), 200);
        return new Promise((resolve) => setTimeout(resolve, 600_000));
      }`,
    );
    expect(end).toMatchObject({
      type: 'died',
      description: expect.stringContaining('ended a run that is not'),
    });
    expect(host.isReusable()).toBe(false);
  },
);

test('a host that ends a run although it has none is not used again', async () => {
  const host = await startHost();
  const line = JSON.stringify({ type: 'returned', run: 'x', rssBytes: 1, hasSpawned: false });
  await runHandler(
    host,
    `() => void setTimeout(() => process.getBuiltinModule('fs').writeSync(3, '${line}\\n'), 100)`,
  );
  await waitFor(() => (host.isReusable() ? undefined : true), { what: 'the host to be given up' });
});

test('a host that talks without end is listened to now and then, and its run still ends', async () => {
  const host = await startHost();
  let heard = 0;
  const abort = new AbortController();
  const ended = runHandler(
    host,
    `async (_, ctx) => { for (;;) { for (let n = 0; n < 1_000; n += 1) ctx.log('x'); await new Promise(setImmediate); } }`,
    { onLog: () => (heard += 1), signal: abort.signal },
  );
  await waitFor(() => (heard > 0 ? true : undefined), { what: 'its first word' });
  const startedMs = performance.now();
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  // However long it took: 5,000 in each second that it has touched.
  const seconds = Math.ceil((performance.now() - startedMs) / 1_000) + 1;
  expect(heard).toBeLessThanOrEqual(seconds * 5_000);
  abort.abort('cancelled');
  expect(await ended).toEqual({ type: 'stopped' });
});

test('a host that cannot be started fails the run that asked for it, and nothing else', async () => {
  const dir = join(tmpdir(), 'windlass-no-such-directory');
  expect(() => spawnHost({ dir, limits, uid: undefined, compileCache: undefined, log })).toThrow(
    'could not be started',
  );
  // The reason arrives as an event one turn later, and must find a listener.
  await new Promise((resolve) => setImmediate(resolve));
});

function runTask(
  host: TaskHost,
  task: string,
  input: unknown,
  onProgress: (percent: number) => void = () => {},
  softSignal = never,
) {
  const handlerUrl = new URL(`../../test/fixtures/tasks/${task}/handler.ts`, import.meta.url).href;
  return host.run(orderRun(host, { task: `test.${task}`, handlerUrl, input }), {
    ...io,
    onProgress,
    softSignal,
  });
}

/** @param handler its source. */
function runHandler(host: TaskHost, handler: string, some: Partial<RunIo> = {}) {
  return host.run(orderHandler(host, handler), { ...io, ...some });
}
