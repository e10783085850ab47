/**
 * Finding and killing everything a task host has started. The process group gets what stayed in it; a grandchild that
 * made a session of its own (`setsid`) is found by the mark in its environment, or by the user id that only this
 * host uses. Linux only; elsewhere the process group has to do.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** In the environment of every task host and so of all that it starts. */
export const markVariable = 'WINDLASS_TASK_HOST';

/** SIGKILLs the group of `pid` and every process with the host's mark (or its own user id). Returns how many were found outside the group. */
export function killHostProcesses(host: { pid: number; mark: string; uid: number | undefined }): number {
  signalGroup(host.pid, 'SIGKILL');
  return killStrays({ mark: host.mark, uid: host.uid, exceptPid: host.pid });
}

export function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // Already gone.
  }
}

/** Kills processes with the mark or user id, in rounds, because one that is being killed may have just forked. */
export function killStrays(options: { mark: string; uid: number | undefined; exceptPid: number }): number {
  let killed = 0;
  for (let round = 0; round < 5; round += 1) {
    const strays = listProcesses().filter((pid) => pid !== options.exceptPid && belongs(pid, options));
    if (strays.length === 0) return killed;
    for (const pid of strays) {
      try {
        process.kill(pid, 'SIGKILL');
        killed += 1;
      } catch {
        // Gone between listing and killing.
      }
    }
  }
  return killed;
}

/**
 * Kills what task hosts of dead workers left running on this machine (a worker that got SIGKILL could not do it). Those
 * of workers in containers may be visible, too, but a pid in their mark means nothing outside: they are left alone.
 */
export function killOrphansOfDeadWorkers(): number {
  const namespace = pidNamespace();
  let killed = 0;
  for (const pid of listProcesses()) {
    const mark = readMark(pid);
    if (mark === undefined) continue;
    const [workerPid, workerStart, , workerNamespace] = mark.split('/');
    if (workerNamespace !== namespace || workerStart === startTime(Number(workerPid))) continue;
    try {
      process.kill(pid, 'SIGKILL');
      killed += 1;
    } catch {
      // Gone already.
    }
  }
  return killed;
}

/**
 * `<worker pid>/<its start time>/<host id>/<pid namespace>`: the start time tells a reused pid from the worker itself.
 */
export function createMark(hostId: string): string {
  return `${process.pid}/${startTime(process.pid) ?? ''}/${hostId}/${pidNamespace()}`;
}

function belongs(pid: number, options: { mark: string; uid: number | undefined }): boolean {
  if (options.uid !== undefined) return readUid(pid) === options.uid;
  return readMark(pid) === options.mark;
}

function listProcesses(): number[] {
  try {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number);
  } catch {
    return [];
  }
}

/** Not the owner of /proc/<pid>: that is root for a process that made itself undumpable, which any process may. */
function readUid(pid: number): number | undefined {
  try {
    return Number(/^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
  } catch {
    return undefined;
  }
}

function readMark(pid: number): string | undefined {
  try {
    const entry = readFileSync(`/proc/${pid}/environ`, 'latin1')
      .split('\0')
      .find((item) => item.startsWith(`${markVariable}=`));
    return entry?.slice(markVariable.length + 1);
  } catch {
    // Not ours to read, or gone.
    return undefined;
  }
}

/** Within which the pids of this process are unique, like `pid:[4026531836]`. */
function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    return '';
  }
}

/** Field 22 of /proc/<pid>/stat, in clock ticks since boot; undefined when there is no such process. */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The second field is the name in parentheses and may hold anything, spaces and parentheses included.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
