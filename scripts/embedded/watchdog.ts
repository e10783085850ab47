import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
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
  tell(`add ${pid} ${options.signal} ${options.deadlineSeconds}`);
  void once(child, 'exit').then(() => tell(`remove ${pid}`));
}

let watchdog: ChildProcess | undefined;

function tell(line: string): void {
  watchdog ??= startWatchdog();
  watchdog.stdin?.write(`${line}\n`);
}

/** One for the whole process. In a session of its own, so that Ctrl-C and the terminal's end do not reach it. */
function startWatchdog(): ChildProcess {
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
  return child;
}
