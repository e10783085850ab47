import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { freePort } from '#scripts/embedded/free-port.ts';
import { identifyProcess, isRunning, type ProcessIdentity } from '#scripts/process-identity.ts';
import { waitFor } from '#test/support/wait-for.ts';

// The real thing: each test starts Postgres, Redis, the api and workers as `npm start` does.
const root = fileURLToPath(new URL('..', import.meta.url));
let dir: string;
const children: ChildProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'windlass-start-'));
  chmodSync(dir, 0o711);
});

afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const processes = processTree(child);
    child.kill('SIGKILL');
    await waitUntilGone(processes);
  }
  rmSync(dir, { recursive: true, force: true });
});

test('the printed command works when pasted, the key is shown once and never logged, and Ctrl-C leaves nothing behind', async () => {
  const port = await freePort();
  const first = start(['--port', String(port), '--workers', '1']);
  await first.ready();
  const key = /admin key +(wl_live_\w+)/.exec(first.output())?.[1] ?? 'no key was printed';
  const { stdout } = await promisify(execFile)('sh', ['-c', first.command()], { cwd: root });
  expect(JSON.parse(stdout)).toMatchObject({ task: 'image.resize' });
  const jobId = /"id":"([^"]+)"/.exec(stdout)?.[1] ?? '';
  const result = await fetch(`http://127.0.0.1:${port}/v1/jobs/${jobId}?wait=60`, {
    headers: { authorization: `Bearer ${key}` },
  });
  expect(await result.json()).toMatchObject({ state: 'succeeded' });
  // In the block and in the command, and nowhere else.
  expect(first.output().split(key)).toHaveLength(3);
  expect(first.output()).not.toContain('adminKey');

  const processes = processTree(first.child);
  first.child.kill('SIGINT');
  expect(await first.end()).toBe(0);
  await waitUntilGone(processes);

  const second = start(['--port', String(port), '--workers', '1']);
  await second.ready();
  expect(second.output()).toContain('shown at the first start');
  expect(second.output()).not.toContain('wl_live_');
  const again = await fetch(`http://127.0.0.1:${port}/v1/jobs/${jobId}`, {
    headers: { authorization: `Bearer ${key}` },
  });
  expect(await again.json()).toMatchObject({ state: 'succeeded' });
  second.child.kill('SIGTERM');
  expect(await second.end()).toBe(0);
});

test('it stops in order when nobody reads its output any more', async () => {
  const run = start(['--port', '0', '--workers', '1']);
  await run.ready();
  const processes = processTree(run.child);
  run.child.stdout?.destroy();
  // Makes a worker say something.
  for (const { pid } of processes) if (commandOf(pid).includes('worker/main')) process.kill(pid, 'SIGKILL');
  await waitUntilGone(processes);
});

test('killed with -9, it leaves nothing behind', async () => {
  const run = start(['--port', '0', '--workers', '1']);
  await run.ready();
  const processes = processTree(run.child);
  expect(processes.length).toBeGreaterThan(5);
  run.child.kill('SIGKILL');
  await waitUntilGone(processes);
});

test('a second start in the same directory, and one on the same port, are refused with advice', async () => {
  const port = await freePort();
  const first = start(['--port', String(port), '--workers', '1']);
  await first.ready();

  const second = start(['--port', '0']);
  expect(await second.end()).toBe(1);
  expect(second.output()).toBe(
    `Windlass is running in ${join(dir, 'data')} already, as process ${first.child.pid}. Stop it first (Ctrl-C there, or \`kill ${first.child.pid}\`), ` +
      'or start a second one beside it: WINDLASS_DATA_DIR=.windlass-2 npm start -- --port 8081\n',
  );

  const third = start(['--port', String(port)], { WINDLASS_DATA_DIR: join(dir, 'other') });
  expect(await third.end()).toBe(1);
  expect(third.output()).toBe(
    `Port ${port} on 127.0.0.1 is taken. Choose another: npm start -- --port 8081\n`,
  );
});

test('what dies is started again: the api on its port, Redis and Postgres on theirs', async () => {
  const run = start(['--port', '0', '--workers', '1'], {
    WINDLASS_API_KEY: 'a-key-of-24-characters-or-more',
  });
  await run.ready();
  const url = /api +(http:\S+)/.exec(run.output())?.[1] ?? '';
  const restarts = () => run.output().match(/a process ended unexpectedly/g)?.length ?? 0;
  for (const [count, name] of ['redis-server', 'postgres -D', 'api/main.ts', 'worker/main.ts'].entries()) {
    const victim = processTree(run.child).find(({ pid }) => commandOf(pid).includes(name));
    if (victim === undefined) throw new Error(`No process of ${name} was found.`);
    process.kill(victim.pid, 'SIGKILL');
    await waitFor(() => (restarts() === count + 1 ? true : undefined), {
      what: `the death of ${name} to be seen`,
      seen: run.output,
    });
  }
  await waitFor(
    async () => {
      const body = new FormData();
      body.set('task', 'image.resize');
      body.set('input', '{"width":32}');
      body.set('file', new Blob([await photo()]), 'photo.jpg');
      const headers = { authorization: 'Bearer a-key-of-24-characters-or-more' };
      const accepted = await fetch(`${url}/v1/jobs`, { method: 'POST', body, headers });
      const { id } = Object(await accepted.json());
      const job = await fetch(`${url}/v1/jobs/${id}?wait=30`, { headers });
      return Object(await job.json()).state === 'succeeded' ? true : undefined;
    },
    { what: 'a job to be done by those that were started again', seen: run.output },
  );
});

test.each([
  [['--workers', 'many'], '--workers must be a number from 1 to 64, and "many" is not.\n'],
  [['--nonsense'], expect.stringContaining("Unknown option '--nonsense'")],
])('start %j is refused before anything is started', async (args, message) => {
  const run = start(args);
  expect(await run.end()).toBe(1);
  expect(run.output()).toEqual(message);
});

test('--help explains, and starts nothing', async () => {
  const run = start(['--help']);
  expect(await run.end()).toBe(0);
  expect(run.output()).toContain('--workers N');
});

async function photo(): Promise<Buffer<ArrayBuffer>> {
  const { readFile } = await import('node:fs/promises');
  return await readFile(join(root, 'examples', 'photos', 'alpine-lake.jpg'));
}

function start(args: string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, ['scripts/start.ts', ...args], {
    cwd: root,
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      WINDLASS_DATA_DIR: join(dir, 'data'),
      WINDLASS_GRACE_MS: '5000',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  const closed = once(child, 'close');
  return {
    child,
    output: () => text,
    async ready() {
      await waitFor(
        () => {
          if (child.exitCode !== null) throw new Error(`It ended with ${child.exitCode}.`);
          return text.includes('Try it:') && text.includes('file=@') ? true : undefined;
        },
        { what: 'the service to be ready', deadlineMs: 80_000, seen: () => text },
      );
    },
    /** What stands under "Try it:". */
    command: () => /Try it:\n\n([\s\S]+?)\n\n/.exec(text)?.[1] ?? '',
    async end() {
      await closed;
      return child.exitCode;
    },
  };
}

/** The process and all that descend from it. */
function processTree(child: ChildProcess): ProcessIdentity[] {
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' });
  const rows = table
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number));
  const found = [child.pid];
  for (const parent of found) {
    for (const [pid, ppid] of rows) if (ppid === parent && pid !== undefined) found.push(pid);
  }
  return found.flatMap((pid) => (pid === undefined ? [] : (identifyProcess(pid) ?? [])));
}

function commandOf(pid: number): string {
  try {
    return execFileSync('ps', ['-o', 'args=', '-p', String(pid)], { encoding: 'utf8' });
  } catch {
    return '';
  }
}

async function waitUntilGone(processes: ProcessIdentity[]): Promise<void> {
  const left = () => processes.filter(isRunning).map(({ pid }) => commandOf(pid));
  await waitFor(() => (left().length === 0 ? true : undefined), {
    what: 'all processes to be gone',
    seen: left,
  });
}
