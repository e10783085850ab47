import { spawn, type ChildProcess } from 'node:child_process';
import type { HostLimits } from './host.ts';
import { markVariable } from './processes.ts';
import { homeOf } from './scratch.ts';
import type { TokenPipe } from './token-pipe.ts';

/**
 * The limits are set by a shell before Node starts (Node has no setrlimit). RLIMIT_DATA, not RLIMIT_AS: V8 and
 * WebAssembly reserve tens of gigabytes of address space that they never touch. Core dumps are off, because they
 * would hold a client's data. `setpriv --pdeathsig` makes the kernel kill the host when its worker dies,
 * also while a handler blocks the event loop.
 */
const limitScript = `
ulimit -c 0
ulimit -d "$1" 2>/dev/null
ulimit -f "$2" 2>/dev/null
ulimit -n 1024 2>/dev/null
echo 1000 2>/dev/null > /proc/self/oom_score_adj
shift 2
if command -v setpriv >/dev/null 2>&1 && setpriv --pdeathsig KILL true 2>/dev/null; then exec setpriv --pdeathsig KILL "$@"; fi
exec "$@"`;

/**
 * What V8 reserves for code when it starts: it counts as data although hardly any of it is ever touched, so it comes on
 * top of what a task may have. Measured: a Node 24 that does nothing has 562 MiB of data and 42 MiB in memory.
 */
const reservedBytes = 576 * 1024 * 1024;

const mainFile = new URL('./main.ts', import.meta.url).pathname;

export function spawnLimited(options: {
  dir: string;
  limits: HostLimits;
  uid: number | undefined;
  mark: string;
  compileCache: string | undefined;
  tokens: TokenPipe | undefined;
}): ChildProcess {
  const { dir, limits, uid, mark, compileCache, tokens } = options;
  const home = homeOf(dir);
  const heapMiB = Math.floor(limits.memoryMax / 2 / 1024 / 1024);
  return spawn(
    '/bin/sh',
    [
      '-c',
      limitScript,
      'task-host',
      String(Math.floor((limits.memoryMax + reservedBytes) / 1024)),
      String(Math.floor(limits.fileBytesMax / 512)),
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      `--max-old-space-size=${heapMiB}`,
      mainFile,
    ],
    {
      cwd: home,
      // A group of its own, so that it can be killed with its children.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe', ...(tokens === undefined ? [] : [tokens.hostFd])],
      // Nothing of the worker's environment: it holds the passwords of Postgres, Redis and the mail server.
      env: {
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        HOME: home,
        TMPDIR: home,
        LANG: 'C.UTF-8',
        TZ: 'UTC',
        // libvips refuses its loaders that were never fuzzed.
        VIPS_BLOCK_UNTRUSTED: '1',
        [markVariable]: mark,
        ...(compileCache !== undefined && { NODE_COMPILE_CACHE: compileCache }),
      },
      ...(uid !== undefined && { uid, gid: uid }),
    },
  );
}
