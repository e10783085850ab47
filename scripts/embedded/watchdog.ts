import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/**
 * Makes sure that `child` does not outlive this process: when this process ends in any way, `signal` is sent to the
 * child, and SIGKILL `deadlineSeconds` later. Children are stopped newest first. A child that ends by itself is
 * forgotten.
 */
export function guard(
  child: ChildProcess,
  options: { signal: 'INT' | 'TERM'; deadlineSeconds: number },
): void {
  const { pid } = child;
  if (pid === undefined) return;
  guarded.set(pid, `add ${pid} ${options.signal} ${options.deadlineSeconds}\n`);
  if (watchdog === undefined) startWatchdog();
  else watchdog.stdin?.write(guarded.get(pid) ?? '');
  child.once('exit', () => {
    guarded.delete(pid);
    watchdog?.stdin?.write(`remove ${pid}\n`);
  });
}

/** What the watchdog was told, so that a new one can be told again. */
const guarded = new Map<number, string>();
let watchdog: ChildProcess | undefined;

/** One for the whole process. In a session of its own, so that Ctrl-C and the terminal's end do not reach it. */
function startWatchdog(): void {
  const script = fileURLToPath(new URL('watchdog.sh', import.meta.url));
  const child = spawn('/bin/sh', [script], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  const forget = () => {
    if (watchdog === child) watchdog = undefined;
  };
  child.once('error', forget);
  child.once('exit', forget);
  // Its death must not take us along (EPIPE), and it must not keep us from ending.
  child.stdin.on('error', forget);
  child.unref();
  if ('unref' in child.stdin && typeof child.stdin.unref === 'function') child.stdin.unref();
  child.stdin.write([...guarded.values()].join(''));
  watchdog = child;
}
