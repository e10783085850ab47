import { readdirSync, readFileSync } from 'node:fs';
import { markVariable } from '#worker/task-host/processes.ts';

export interface FoundProcess {
  readonly pid: number;
  readonly command: string;
}

/**
 * Task hosts of the workers on this data directory, and everything that they have started: all inherit the mark, and a
 * home directory inside the scratch space. Linux only, as the mark is.
 */
export function findTaskProcesses(dataDir: string): FoundProcess[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const environment = read(`/proc/${name}/environ`);
      const isTask = environment.some((entry) => entry.startsWith(`${markVariable}=`));
      const isHere = environment.some((entry) => entry.startsWith(`HOME=${dataDir}/`));
      return isTask && isHere
        ? [{ pid: Number(name), command: read(`/proc/${name}/cmdline`).join(' ') }]
        : [];
    });
}

export function isAlive(pid: number): boolean {
  try {
    // A zombie has ended; only its parent has not looked yet.
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return false;
  }
}

export function isFrozen(pid: number): boolean {
  return /^State:\s+T/m.test(read(`/proc/${pid}/status`).join());
}

/** Empty for a process that is gone, or not ours to read. */
function read(path: string): string[] {
  try {
    return readFileSync(path, 'latin1').split('\0').filter(Boolean);
  } catch {
    return [];
  }
}
