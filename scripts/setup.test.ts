import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { waitFor } from '#test/support/wait-for.ts';

// A project of two files, and an npm that "installs" by linking the Node that runs these tests.
let dir: string;
const children: ChildProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'windlass-setup-'));
  mkdirSync(join(dir, 'scripts'));
  mkdirSync(join(dir, 'bin'));
  copyFileSync(new URL('setup.mjs', import.meta.url), join(dir, 'scripts', 'setup.mjs'));
  const { scripts } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  writeFileSync(join(dir, 'package.json'), JSON.stringify({ type: 'module', scripts }));
  writeScript('hello', `console.log('hello', process.argv.slice(2).join(' '), process.cwd());`);
  writeLock('1.0.0');
  writeNpm(installing);
});

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  // One that outlives npm is what some tests look for.
  const pids = join(dir, 'pid');
  if (existsSync(pids)) killIfRunning(Number(readFileSync(pids, 'utf8')));
  rmSync(dir, { recursive: true, force: true });
});

test('a fresh checkout is installed once, then the command runs at once', async () => {
  const first = await setup(['hello', 'a', 'b']);
  expect(first).toEqual({
    exitCode: 0,
    stdout: `hello a b ${dir}\n`,
    stderr: expect.stringContaining('Installing the dependencies'),
  });
  expect(npmCalls()).toEqual([expect.stringMatching(/^ci --loglevel=error/)]);

  const second = await setup(['hello']);
  expect(second).toEqual({ exitCode: 0, stdout: `hello  ${dir}\n`, stderr: '' });
  expect(npmCalls()).toHaveLength(1);
});

test('a changed lockfile is installed', async () => {
  await setup(['hello']);
  writeLock('1.0.1');
  await setup(['hello']);
  expect(npmCalls()).toHaveLength(2);
});

test('a node_modules that was made for another platform is replaced', async () => {
  await setup(['hello']);
  const stamp = join(dir, 'node_modules', '.windlass-installed');
  writeFileSync(stamp, readFileSync(stamp, 'utf8').replace(process.arch, 'mips'));
  rmSync(join(dir, 'node_modules', 'node'), { recursive: true });
  expect(await setup(['hello'])).toMatchObject({ exitCode: 0 });
  expect(npmCalls()).toHaveLength(2);
});

test('what was installed by hand is taken as it is, if it is all that the lockfile asks for', async () => {
  await setup(['hello']);
  rmSync(join(dir, 'node_modules', '.windlass-installed'));
  await setup(['hello']);
  expect(npmCalls()).toHaveLength(1);

  rmSync(join(dir, 'node_modules', '.windlass-installed'));
  writeFileSync(join(dir, 'node_modules', '.package-lock.json'), lockText('0.9.0'));
  await setup(['hello']);
  expect(npmCalls()).toHaveLength(2);
});

test("a failed install shows npm's own words and what to do, and is tried again the next time", async () => {
  writeNpm(`echo 'npm error code ENOTFOUND' >&2; exit 7`);
  const failed = await setup(['hello']);
  expect(failed.exitCode).toBe(1);
  expect(failed.stdout).toBe('');
  expect(failed.stderr).toMatch(
    /npm error code ENOTFOUND\nInstalling the dependencies failed \(npm ended with 7\)/,
  );

  writeNpm(installing);
  expect(await setup(['hello'])).toMatchObject({ exitCode: 0 });
});

test('an install without install scripts says which one is needed', async () => {
  writeNpm(`mkdir -p node_modules`);
  const result = await setup(['hello']);
  expect(result).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('npm rebuild node --ignore-scripts=false'),
  });
});

test('an unknown command installs nothing', async () => {
  expect(await setup(['nonsense'])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('no command "nonsense"'),
  });
  expect(await setup(['../hello'])).toMatchObject({ exitCode: 1 });
  expect(npmCalls()).toEqual([]);
});

test('the exit code is that of the command, also when a signal ended it', async () => {
  writeScript('three', 'process.exit(3);');
  writeScript('killed', `process.kill(process.pid, 'SIGKILL');`);
  expect(await setup(['three'])).toMatchObject({ exitCode: 3 });
  expect(await setup(['killed'])).toMatchObject({ exitCode: 137 });
});

test('a signal is passed on, and the command decides', async () => {
  writeScript(
    'wait',
    `process.on('SIGTERM', () => { console.log('told'); process.exit(4); }); setInterval(() => {}, 1000); console.log('ready');`,
  );
  const run = start(['wait']);
  await waitFor(() => (run.stdout().includes('ready') ? true : undefined), {
    what: 'the command to run',
    seen: run.stdout,
  });
  run.child.kill('SIGTERM');
  expect(await run.end()).toMatchObject({ exitCode: 4, stdout: 'ready\ntold\n' });
});

test('the command learns that it is alone when the set-up is killed', async () => {
  const file = join(dir, 'alone');
  writeScript(
    'wait',
    `import { writeFileSync } from 'node:fs';
     process.once('disconnect', () => { writeFileSync(${JSON.stringify(file)}, ''); process.exit(); }); console.log('ready');`,
  );
  const run = start(['wait']);
  await waitFor(() => (run.stdout().includes('ready') ? true : undefined), {
    what: 'the command to run',
    seen: run.stdout,
  });
  run.child.kill('SIGKILL');
  expect(await waitFor(() => (existsSync(file) ? true : undefined), { what: 'the command to notice' })).toBe(
    true,
  );
});

test('SIGTERM to npm ends the command in order, and npm waits for its end and hands its exit code on', async () => {
  writeScript('start', stopsInOrder);
  const run = await startWithNpm();
  run.child.kill('SIGTERM');
  await waitUntilStopped(run);
  expect(await run.end()).toEqual({
    exitCode: 4,
    stdout: expect.stringContaining('ready\ntold\nstopped\n'),
    stderr: '',
  });
});

test('the command is stopped in order when npm was killed', async () => {
  writeScript('start', stopsInOrder);
  const run = await startWithNpm();
  run.child.kill('SIGKILL');
  await waitUntilStopped(run);
});

test('also when npm was killed that runs its scripts by a shell which stays in between', async () => {
  writeScript('start', stopsInOrder);
  const shell = join(dir, 'bin', 'shell');
  writeFileSync(shell, `#!/bin/sh\n/bin/sh "$@"\nexit $?\n`);
  chmodSync(shell, 0o755);
  const run = await startWithNpm({ npm_config_script_shell: shell });
  run.child.kill('SIGTERM');
  await waitUntilStopped(run);
});

test('a command that npm runs in the background goes on when the shell that started npm is gone', async () => {
  writeScript(
    'start',
    `import { writeFileSync } from 'node:fs';
     writeFileSync('pid', String(process.pid));
     let beats = 0; setInterval(() => console.log('beat', ++beats), 100); process.on('SIGTERM', () => process.exit());`,
  );
  await setup(['hello']); // Installs.
  const run = start([], { program: ['sh', '-c', `"${realNpm()}" start & echo "npm is $!"`] });
  await once(run.child, 'exit');
  // Longer than it takes to notice that npm is gone.
  await waitFor(() => (run.stdout().includes('beat 40') ? true : undefined), {
    what: 'the command to go on',
    seen: run.stdout,
  });
  process.kill(Number(/npm is (\d+)/.exec(run.stdout())?.[1]), 'SIGTERM');
  await run.end();
});

const stopsInOrder = `
import { writeFileSync } from 'node:fs';
writeFileSync('pid', String(process.pid));
process.on('SIGTERM', () => {
  console.log('told');
  setTimeout(() => { console.log('stopped'); process.exit(4); }, 2500); // Long enough to be told twice.
});
setInterval(() => {}, 1000);
console.log('ready');`;

/** With the scripts that this project has, by the npm of this machine. */
async function startWithNpm(env: Record<string, string> = {}) {
  await setup(['hello']); // Installs.
  const run = start([], { program: [realNpm(), 'start'], env });
  await waitFor(() => (run.stdout().includes('ready') ? true : undefined), {
    what: 'the command to run',
    deadlineMs: 30_000,
    seen: run.stdout,
  });
  return run;
}

async function waitUntilStopped(run: { stdout: () => string }): Promise<void> {
  await waitFor(() => (run.stdout().endsWith('ready\ntold\nstopped\n') ? true : undefined), {
    what: 'the command to stop',
    deadlineMs: 30_000,
    seen: run.stdout,
  });
}

function killIfRunning(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

function realNpm(): string {
  const dirs = (process.env['PATH'] ?? '').split(delimiter);
  const found = dirs.map((path) => join(path, 'npm')).find((file) => existsSync(file));
  return found ?? 'there is no npm on the PATH';
}

const installing = `
rm -rf node_modules && mkdir -p node_modules/node/bin
ln -s '${process.execPath}' node_modules/node/bin/node
cp package-lock.json node_modules/.package-lock.json`;

function writeNpm(script: string): void {
  const file = join(dir, 'bin', 'npm');
  writeFileSync(file, `#!/bin/sh\necho "$*" >> '${join(dir, 'npm-calls')}'\n${script}\n`);
  chmodSync(file, 0o755);
}

function npmCalls(): string[] {
  const file = join(dir, 'npm-calls');
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
}

function writeScript(name: string, code: string): void {
  writeFileSync(join(dir, 'scripts', `${name}.ts`), code);
}

function writeLock(version: string): void {
  writeFileSync(join(dir, 'package-lock.json'), lockText(version));
}

function lockText(version: string): string {
  return JSON.stringify({
    packages: {
      '': {},
      'node_modules/a': { version, integrity: `sha512-${version}` },
      'node_modules/b': { version, optional: true },
    },
  });
}

function start(args: string[], options: { program?: string[]; env?: Record<string, string> } = {}) {
  // What npm sets for its scripts would lead to the npm that runs these tests.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('npm_')));
  const [program = process.execPath, ...before] = options.program ?? [
    process.execPath,
    join(dir, 'scripts', 'setup.mjs'),
  ];
  const child = spawn(program, [...before, ...args], {
    cwd: options.program === undefined ? tmpdir() : dir,
    env: { ...env, ...options.env, PATH: `${join(dir, 'bin')}:${process.env['PATH']}` },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const closed = once(child, 'close');
  return {
    child,
    stdout: () => stdout,
    async end() {
      await closed;
      return { exitCode: child.exitCode, stdout, stderr };
    },
  };
}

async function setup(args: string[]) {
  return await start(args).end();
}
