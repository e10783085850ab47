/**
 * I13: what a process holds when everything has ended is what it held when it had just begun. Linux only, as /proc is.
 *
 * Both bounds are generous: pools grow to their size, and V8 gives memory back when it likes. What grows with each job
 * or request passes them all the same within a minute.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { waitFor } from '#test/support/wait-for.ts';
import type { Cluster } from './cluster.ts';
import type { History } from './history.ts';
import type { Supervised } from './supervised.ts';

export interface Footprint {
  readonly descriptors: number;
  /** Those that lead to stored files. */
  readonly files: readonly string[];
  readonly rssBytes: number;
  readonly children: number;
}

/** From being ready to having its connections, task hosts and code. */
const warmUpMs = 3_000;
const lookEveryMs = 500;
const descriptorsMax = 50;
const growthBytesMax = 192 * 1024 * 1024;
/** Idle connections of clients are closed, and task hosts that were ended are gone, within this. */
const settleMs = 30_000;

export interface LeakWatch {
  /** When nothing runs any more. @returns what is held all the same. */
  check(): Promise<string[]>;
  stop(): void;
}

export function watchLeaks(
  processes: readonly Supervised[],
  { world, taskHostsMax, apis }: Pick<Cluster, 'world' | 'taskHostsMax' | 'apis'>,
  history: History,
): LeakWatch {
  const readySince = new Map<number, number>();
  const bases = new Map<number, Footprint>();
  const look = () => {
    for (const process of processes) {
      const { pid } = process.current();
      if (!process.isReady() || bases.has(pid)) continue;
      const since = readySince.get(pid) ?? performance.now();
      readySince.set(pid, since);
      if (performance.now() - since < warmUpMs) continue;
      const footprint = readFootprint(pid, world.dataDir);
      if (footprint !== undefined) bases.set(pid, footprint);
    }
  };
  const timer = setInterval(look, lookEveryMs);
  timer.unref();

  const compare = () =>
    processes.flatMap((process) => {
      const { pid } = process.current();
      const now = readFootprint(pid, world.dataDir);
      return now === undefined
        ? []
        : findLeaks(`${process.name} (pid ${pid})`, now, bases.get(pid), taskHostsMax);
    });
  return {
    stop: () => clearInterval(timer),
    async check() {
      clearInterval(timer);
      // Clients keep idle connections for their next requests, and there are none.
      for (const { proxy } of apis) proxy.cut();
      let left: string[] = [];
      await waitFor(
        async () => {
          left = compare();
          return left.length === 0 ? true : undefined;
        },
        { what: 'all processes to be as they were', deadlineMs: settleMs },
      ).catch(() => undefined);
      for (const process of processes) {
        const { pid } = process.current();
        const now = readFootprint(pid, world.dataDir);
        if (now !== undefined)
          history.add({ type: 'footprint', name: process.name, pid, base: bases.get(pid), now });
      }
      return left;
    },
  };
}

/** @param base of the same process; undefined when it has only just begun. */
export function findLeaks(
  name: string,
  now: Footprint,
  base: Footprint | undefined,
  taskHostsMax: number,
): string[] {
  const problems: string[] = [];
  for (const file of now.files) problems.push(`I13: ${name} still holds the file ${file}`);
  if (now.children > taskHostsMax)
    problems.push(`I13: ${name} has ${now.children} child processes instead of at most ${taskHostsMax}`);
  if (base === undefined) return problems;
  if (now.descriptors > base.descriptors + descriptorsMax)
    problems.push(`I13: ${name} holds ${now.descriptors} descriptors, and held ${base.descriptors} at first`);
  if (now.rssBytes > base.rssBytes + growthBytesMax)
    problems.push(
      `I13: ${name} holds ${inMegabytes(now.rssBytes)} MB, and held ${inMegabytes(base.rssBytes)} MB at first`,
    );
  return problems;
}

function inMegabytes(bytes: number): number {
  return Math.round(bytes / 1_048_576);
}

/** Undefined for a process that has ended. */
export function readFootprint(pid: number, dataDir: string): Footprint | undefined {
  try {
    const descriptors = readdirSync(`/proc/${pid}/fd`);
    const files = descriptors
      .map((name) => targetOf(`/proc/${pid}/fd/${name}`))
      .filter((target) => target.startsWith(`${dataDir}/files/`));
    const pages = Number(readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ')[1]);
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim();
    return {
      descriptors: descriptors.length,
      files,
      rssBytes: pages * 4_096,
      children: children === '' ? 0 : children.split(' ').length,
    };
  } catch {
    return undefined;
  }
}

/** Empty for one that was closed at this moment. */
function targetOf(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return '';
  }
}
