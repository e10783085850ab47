import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { afterEach, expect, test } from 'vitest';
import { waitFor } from '#test/support/wait-for.ts';

// Signals, exit codes and IPC channels belong to whole processes: each test runs one.
const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

test('on SIGTERM the steps run in reverse order, one after the other, and the exit code is 0', async () => {
  const run = start(`
    lifecycle.onStop('postgres', () => say('postgres'));
    lifecycle.onStop('api', async () => { await turn(); say('api'); });
  `);
  await run.ready();
  run.child.kill('SIGTERM');
  expect(await run.end()).toEqual({ said: ['api', 'postgres'], exitCode: 0 });
});

test('the deadline is announced to the step that is late, and the steps after it still run', async () => {
  const run = start(
    `
    lifecycle.onStop('last', (deadline) => say('last, deadline passed: ' + deadline.aborted));
    lifecycle.onStop('late', (deadline) => new Promise((resolve) => {
      deadline.addEventListener('abort', () => { say('late was told'); resolve(); });
    }));
  `,
    { deadlineMs: 50 },
  );
  await run.ready();
  run.child.kill('SIGTERM');
  expect(await run.end()).toEqual({ said: ['late was told', 'last, deadline passed: true'], exitCode: 0 });
});

test('a step that ignores the deadline is left behind, and the exit code says so', async () => {
  const run = start(
    `
    lifecycle.onStop('last', () => say('last'));
    lifecycle.onStop('stuck', () => new Promise(() => {}));
  `,
    { deadlineMs: 50 },
  );
  await run.ready();
  run.child.kill('SIGTERM');
  expect(await run.end()).toEqual({ said: ['last'], exitCode: 1 });
  expect(run.log()).toContainEqual(
    expect.objectContaining({ step: 'stuck', msg: 'a stop step did not end well' }),
  );
});

test('a step that throws does not keep the others from running, and the exit code says so', async () => {
  const run = start(`
    lifecycle.onStop('first', () => say('first'));
    lifecycle.onStop('rejects', async () => { throw new Error('a'); });
    lifecycle.onStop('throws', () => { throw new Error('b'); });
  `);
  await run.ready();
  run.child.kill('SIGINT');
  expect(await run.end()).toEqual({ said: ['first'], exitCode: 1 });
});

test('one signal that arrives twice, as from the terminal and from npm, counts once', async () => {
  const run = start(`
    lifecycle.onStop('api', async () => { await turn(); say('api'); });
    // Emitted, because the system would merge two signals that arrive at the same time.
    process.once('message', () => { process.emit('SIGINT', 'SIGINT'); process.emit('SIGINT', 'SIGINT'); });
  `);
  await run.ready();
  run.child.send('go');
  expect(await run.end()).toEqual({ said: ['api'], exitCode: 0 });
});

test('a second signal ends the process at once', async () => {
  const run = start(`
    lifecycle.onStop('last', () => say('last'));
    lifecycle.onStop('stuck', () => { say('stuck'); return new Promise(() => {}); });
  `);
  await run.ready();
  run.child.kill('SIGTERM');
  await waitFor(() => (run.said().includes('stuck') ? true : undefined), { what: 'the first step' });
  // Repeated, because right after the first it counts as an echo of it.
  const again = setInterval(() => run.child.kill('SIGINT'), 50);
  expect(await run.end()).toEqual({ said: ['stuck'], exitCode: 'SIGINT' });
  clearInterval(again);
});

test('it stops in order when the process that started it is gone', async () => {
  const run = start(`lifecycle.onStop('api', () => say('api'));`);
  await run.ready();
  run.child.disconnect();
  expect(await run.end()).toEqual({ said: ['api'], exitCode: 0 });
});

test('it stops although nobody reads its log any more', async () => {
  const run = start(`lifecycle.onStop('api', () => process.send('stopped'));`);
  await run.ready();
  const stopped = once(run.child, 'message');
  const exited = once(run.child, 'exit');
  run.child.stdout?.destroy();
  run.child.kill('SIGTERM');
  await stopped;
  expect(await exited).toEqual([0, null]);
});

test('it stops after an uncaught error, too, when nobody reads its log any more', async () => {
  const run = start(
    `process.once('message', () => setTimeout(() => { log.info('one line is on its way'); throw new Error('oops'); }));`,
  );
  await run.ready();
  const exited = once(run.child, 'exit');
  run.child.stdout?.destroy();
  run.child.send('go');
  expect(await exited).toEqual([1, null]);
});

test.each([
  ['an exception that nobody caught', `setTimeout(() => { throw new Error('oops'); })`, 'uncaught exception'],
  ['a rejection that nobody handled', `void Promise.reject(new Error('oops'))`, 'unhandled rejection'],
])('%s is logged as fatal, and the process stops in order with exit code 1', async (_title, code, msg) => {
  const run = start(`lifecycle.onStop('api', () => say('api')); process.once('message', () => { ${code} });`);
  await run.ready();
  run.child.send('go');
  expect(await run.end()).toEqual({ said: ['api'], exitCode: 1 });
  expect(run.log()).toContainEqual(
    expect.objectContaining({ level: 60, msg, err: expect.objectContaining({ message: 'oops' }) }),
  );
});

test('what is registered while stopping is stopped, too', async () => {
  const run = start(`
    lifecycle.onStop('api', async () => { await turn(); lifecycle.onStop('late', () => say('late')); });
    lifecycle.stopping.addEventListener('abort', () => say('stopping'));
  `);
  await run.ready();
  run.child.kill('SIGTERM');
  expect(await run.end()).toEqual({ said: ['stopping', 'late'], exitCode: 0 });
});

test('stop() ends the process with exit code 0, however often it is called', async () => {
  const run = start(`
    lifecycle.onStop('api', async () => { await turn(); say('api'); });
    process.once('message', () => { lifecycle.stop('asked'); lifecycle.stop('asked again'); });
  `);
  await run.ready();
  run.child.send('go');
  expect(await run.end()).toEqual({ said: ['api'], exitCode: 0 });
});

/** Runs a process that makes a lifecycle, does `code`, and then says 'ready'. */
function start(code: string, options: { deadlineMs: number } = { deadlineMs: 60_000 }) {
  const program = `
    import { createLifecycle } from '#shared/lifecycle.ts';
    import { createLogger } from '#shared/log.ts';
    const say = (text) => console.log(JSON.stringify({ said: text }));
    const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
    const log = createLogger({ service: 'test', level: 'info' });
    const lifecycle = createLifecycle({ log, deadlineMs: ${options.deadlineMs} });
    ${code}
    setInterval(() => {}, 1000);
    say('ready');
  `;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  });
  children.push(child);
  const lines: Record<string, unknown>[] = [];
  if (child.stdout === null) throw new Error('The process was started without a pipe for its output.');
  createInterface({ input: child.stdout }).on('line', (line) => lines.push(Object(JSON.parse(line))));
  // Not 'close': it does not come after disconnect().
  const ended = Promise.all([once(child, 'exit'), once(child.stdout, 'end')]);
  const said = () =>
    lines.filter((line) => 'said' in line && line['said'] !== 'ready').map((line) => line['said']);
  return {
    child,
    said,
    log: () => lines.filter((line) => !('said' in line)),
    ready: () =>
      waitFor(() => (lines.some((line) => line['said'] === 'ready') ? true : undefined), {
        what: 'the process to be ready',
        seen: () => lines,
      }),
    async end() {
      await ended;
      return { said: said(), exitCode: child.exitCode ?? child.signalCode };
    },
  };
}
