/** A host that has its next run before the last one has ended. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { io, orderHandler, startHost } from '#test/support/start-host.ts';
import { waitFor } from '#test/support/wait-for.ts';
import type { Offer, TaskHost } from './host.ts';

describe.runIf(process.platform === 'linux')('the next run of a host', () => {
  test('begins when the last one ends, also while the worker has no time', async () => {
    const { host, run, offer, mark, gate } = await start();
    const last = run(`async () => { await until('last'); return 'last' }`);
    const { given, begun } = offer(`() => { mark('next'); return 'next' }`);
    expect(begun()).toBe(0);
    gate('last');
    // Nothing can be told to the host, or heard from it.
    waitBlocking(mark('next'));
    expect(begun()).toBe(0);
    expect(await last).toMatchObject({ document: { result: 'last' } });
    expect(begun()).toBe(1);
    expect([given.withdraw(), host.leave()]).toEqual([false, false]);
    expect(await given.follow(io)).toMatchObject({ document: { result: 'next' } });
    expect([host.leave(), host.isReusable()]).toEqual([true, true]);
  });

  test('has begun for everybody when the last one is left and it cannot be taken back', async () => {
    const { host, run, offer } = await start();
    // Somebody has its token, and does not say so.
    const last = run(
      `() => { const wait = setInterval(() => {
        try { process.getBuiltinModule('fs').readSync(4, Buffer.alloc(36)); clearInterval(wait); done() } catch {}
      }, 2);
      let done; return new Promise((resolve) => (done = resolve)) }`,
    );
    const { given, begun } = offer(`() => {}`);
    await last;
    expect(begun()).toBe(0);
    expect(host.leave()).toBe(false);
    expect([begun(), given.withdraw()]).toEqual([1, false]);
    const stop = new AbortController();
    stop.abort('timeout');
    expect(await given.follow({ ...io, signal: stop.signal })).toEqual({ type: 'stopped' });
    expect(host.leave()).toBe(true);
  });

  test('does not begin when it was taken back, also while a handler keeps the thread to itself', async () => {
    const { run, offer, mark, gate } = await start();
    const last = run(`() => { mark('spins'); while (!is('last')); }`);
    await waitFor(() => (existsSync(mark('spins')) ? true : undefined), { what: 'the last one to begin' });
    const first = offer(`() => { mark('first') }`);
    expect([first.given.withdraw(), first.given.withdraw()]).toEqual([true, true]);
    const second = offer(`() => { mark('second') }`);
    gate('last');
    await last;
    expect(await second.given.follow(io)).toMatchObject({ type: 'returned' });
    expect([existsSync(mark('first')), existsSync(mark('second'))]).toEqual([false, true]);
    expect([first.begun(), first.takenBack(), second.begun()]).toEqual([0, 0, 1]);
    expect(await run(`() => 'another'`)).toMatchObject({ document: { result: 'another' } });
  });

  test('is taken back when the last one is left, from a host that has not heard of it', async () => {
    const { host, run, offer, gate, mark } = await start();
    // It stands still when its end is on its way.
    const last = run(
      `() => void setTimeout(() => { mark('over'); process.kill(process.pid, 'SIGSTOP') }, 0)`,
    );
    waitBlocking(mark('over'));
    const { given, takenBack } = offer(`() => mark('next')`);
    await last;
    expect([host.leave(), given.withdraw(), takenBack()]).toEqual([true, true, 1]);
    // It hears of both at the same time.
    const another = run(`() => until('another')`);
    process.kill(host.pid, 'SIGCONT');
    expect(() => offer(`() => {}`)).toThrow('cannot have');
    gate('another');
    expect(await another).toMatchObject({ type: 'returned' });
    expect(existsSync(mark('next'))).toBe(false);
  });

  test.each([
    {
      when: 'the last one is stopped',
      handler: `() => new Promise(() => setTimeout(() => {}, 600_000))`,
      stops: true,
    },
    {
      when: 'the last one has started processes',
      handler: `() => void process.getBuiltinModule('child_process').spawn('true')`,
    },
    { when: 'the last one takes longer', handler: `() => until('last')`, shortRunMs: 500 },
    { when: 'the host dies', handler: `() => process.exit(7)` },
  ])('is taken back when $when', async ({ handler, stops, shortRunMs }) => {
    const { run, offer, mark, gate } = await start(shortRunMs === undefined ? {} : { shortRunMs });
    const stop = new AbortController();
    const last = run(handler, { signal: stop.signal });
    const { given, begun, takenBack } = offer(`() => mark('next')`);
    if (stops === true) stop.abort('timeout');
    await waitFor(() => (takenBack() === 1 ? true : undefined), { what: 'it to be taken back' });
    gate('last');
    await last;
    expect([given.withdraw(), begun(), existsSync(mark('next'))]).toEqual([true, 0, false]);
  });

  test('has its own token, whatever the host has not read yet', async () => {
    const { host, run, offer, mark, gate } = await start();
    const last = run(`() => { mark('spins'); while (!is('last')); }`);
    await waitFor(() => (existsSync(mark('spins')) ? true : undefined), { what: 'the last one to begin' });
    // The host reads of this one when it has ended the last, together with what it is given then.
    offer(`() => { mark('stale') }`).given.withdraw();
    gate('last');
    await last;
    host.leave();
    const another = run(`() => until('another')`);
    expect(() => offer(`() => {}`)).toThrow('cannot have');
    gate('another');
    await another;
    host.leave();
    void run(`() => 1`);
    const { given } = offer(`() => 2`);
    expect(await given.follow(io)).toMatchObject({ document: { result: 2 } });
    expect(existsSync(mark('stale'))).toBe(false);
  });

  test('is stopped like any other run, and what stops the last one does not stop it', async () => {
    const { run, offer, mark, gate } = await start();
    const [stopLast, stopNext] = [new AbortController(), new AbortController()];
    const last = run(`() => until('last')`, { signal: stopLast.signal });
    const { given } = offer(
      `(_, ctx) => new Promise((_, reject) => {
        ctx.signal.addEventListener('abort', () => { mark('stopped'); reject(ctx.signal.reason) });
        mark('next');
      })`,
    );
    gate('last');
    waitBlocking(mark('next'));
    // The last one has ended, and the worker does not know it.
    stopLast.abort('timeout');
    // By now it would have been ended by force.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_200);
    expect(await last).toMatchObject({ type: 'returned' });
    expect(existsSync(mark('stopped'))).toBe(false);
    const next = given.follow({ ...io, signal: stopNext.signal });
    stopNext.abort('cancelled');
    expect(await next).toEqual({ type: 'stopped' });
    expect(existsSync(mark('stopped'))).toBe(true);
  });

  test('that kills its host is the one that died', async () => {
    const { run, offer, gate } = await start();
    const last = run(`() => { console.error('words of the last one') }`);
    const { given } = offer(
      `async () => { await until('last is over'); console.error('its own words'); process.exit(7) }`,
    );
    expect(await last).toMatchObject({ type: 'returned' });
    // Whatever the last one said has been read by then.
    await new Promise((resolve) => setImmediate(resolve));
    gate('last is over');
    const { description } = (await given.follow(io)) as { description?: string };
    expect(description).toContain('code 7');
    expect(description).toContain('its own words');
    expect(description).not.toContain('words of the last one');
  });

  test('is heard from the beginning, whenever somebody listens', async () => {
    const { run, offer, mark } = await start();
    void run(`() => 'last'`);
    const { given } = offer(`(_, ctx) => { ctx.progress(5, 'five'); ctx.log('said'); mark('over') }`);
    await waitFor(() => (existsSync(mark('over')) ? true : undefined), { what: 'it to end' });
    // What was said before that is read between these.
    for (let turn = 0; turn < 2; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    const heard: unknown[] = [];
    await given.follow({
      ...io,
      onProgress: (...progress) => heard.push(progress),
      onLog: (message) => heard.push(message),
    });
    expect(heard).toEqual(['said', [5, 'five']]);
  });

  test('is the last of a host that has run many', async () => {
    const { host, run, offer } = await start({ jobsMax: 3 });
    void run(`() => 1`);
    const { given } = offer(`() => 2`);
    await given.follow(io);
    expect(host.isReusable()).toBe(false);
    expect(() => offer(`() => 3`)).toThrow('cannot have');
  });

  test('that is said to have begun before the last one has ended ends the host', async () => {
    const { host, run, offer } = await start();
    const last = run(
      `() => new Promise(() => {
        const { readSync, writeSync } = process.getBuiltinModule('fs');
        const token = Buffer.alloc(36);
        const lie = () => writeSync(3, JSON.stringify({ type: 'began', run: token.toString() }) + '\\n');
        setInterval(() => { try { if (readSync(4, token) > 0) lie() } catch {} }, 5);
      })`,
    );
    const { given, begun } = offer(`() => {}`);
    expect(await last).toMatchObject({ type: 'died', description: expect.stringContaining('began a run') });
    expect([host.isReusable(), begun()]).toEqual([false, 0]);
    // Nobody knows whether it has begun.
    expect([given.withdraw(), host.leave()]).toEqual([false, false]);
    expect(await given.follow(io)).toMatchObject({ type: 'died' });
    expect(host.leave()).toBe(true);
  });
});

/** Keeps the thread to itself until the file is there. */
function waitBlocking(path: string): void {
  const deadlineMs = performance.now() + 60_000;
  while (!existsSync(path)) if (performance.now() > deadlineMs) throw new Error(`No ${path} came.`);
}

/** A host that has run something: the first run takes long. */
async function start(options: Parameters<typeof startHost>[0] = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-next-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const mark = (name: string) => join(dir, name);
  const host: TaskHost = await startHost({ shortRunMs: 600_000, ...options });
  const order = (handler: string) =>
    orderHandler(
      host,
      `(() => {
        const { existsSync, writeFileSync } = process.getBuiltinModule('fs');
        const is = (name) => existsSync('${dir}/' + name);
        const mark = (name) => writeFileSync('${dir}/' + name, '');
        const until = async (name) => { while (!is(name)) await new Promise((resolve) => setTimeout(resolve, 2)); };
        return ${handler};
      })()`,
    );
  const run = (handler: string, some: Partial<typeof io> = {}) =>
    host.run(order(handler), { ...io, ...some });
  expect(await run(`() => 'warm'`)).toMatchObject({ type: 'returned' });
  host.leave();
  return {
    host,
    mark,
    run,
    gate: (name: string) => writeFileSync(mark(name), ''),
    offer(handler: string): { given: Offer; begun(): number; takenBack(): number } {
      let [begun, takenBack] = [0, 0];
      const given = host.offer(order(handler), {
        onBegun: () => void (begun += 1),
        onTakenBack: () => void (takenBack += 1),
      });
      if (given === undefined) throw new Error('The host cannot have a next run.');
      return { given, begun: () => begun, takenBack: () => takenBack };
    },
  };
}
