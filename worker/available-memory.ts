import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';

/**
 * Memory that can still be used, in bytes: of the machine, or of the container (cgroup v2) where that has less. What the
 * kernel keeps of files counts as free, because it gives it up when asked; Kubernetes counts likewise (working set).
 */
export function readAvailableMemory(
  read: (path: string) => string = (path) => readFileSync(path, 'utf8'),
): number {
  return Math.min(ofMachine(read), ofContainer(read));
}

function ofMachine(read: (path: string) => string): number {
  try {
    const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(read('/proc/meminfo'))?.[1];
    if (kib !== undefined) return Number(kib) * 1024;
  } catch {
    // No Linux.
  }
  return freemem();
}

function ofContainer(read: (path: string) => string): number {
  try {
    const max = read('/sys/fs/cgroup/memory.max').trim();
    if (max === 'max') return Infinity;
    const inactive = /^inactive_file (\d+)$/m.exec(read('/sys/fs/cgroup/memory.stat'))?.[1] ?? 0;
    return Number(max) - (Number(read('/sys/fs/cgroup/memory.current')) - Number(inactive));
  } catch {
    // No limit of its own, or an older kind of cgroup: the machine's memory decides.
    return Infinity;
  }
}
