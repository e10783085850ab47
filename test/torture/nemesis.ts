/** Breaks something every 0.5 to 3 s, as the seed says, until it is told to stop. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from './cluster.ts';
import type { FaultKind, PlannedFault } from './faults.ts';
import type { History } from './history.ts';
import type { Random } from './random.ts';

export interface PlannedStep {
  readonly number: number;
  readonly waitMs: number;
  readonly fault: PlannedFault;
}

const waitMsMin = 500;
const waitMsMax = 3_000;

/** The n-th step depends on the seed and n alone, not on how anything went. */
export function planStep(
  random: Random,
  number: number,
  options: { kinds: readonly FaultKind[]; size: { apis: number; workers: number } },
): PlannedStep {
  const own = random.fork(`fault-${number}`);
  const waitMs = own.int(waitMsMin, waitMsMax);
  const kind = own.pickWeighted(options.kinds);
  return { number, waitMs, fault: { name: kind.name, ...kind.plan(own, options.size) } };
}

export async function runNemesis(options: {
  cluster: Cluster;
  kinds: readonly FaultKind[];
  random: Random;
  history: History;
  stop: AbortSignal;
}): Promise<void> {
  const { cluster, kinds, random, history, stop } = options;
  const size = { apis: cluster.apis.length, workers: cluster.workers.length };
  const underWay = new Map<string, Promise<void>>();
  for (let number = 1; ; number += 1) {
    const { waitMs, fault } = planStep(random, number, { kinds, size });
    await sleep(waitMs, undefined, { signal: stop }).catch(() => undefined);
    if (stop.aborted) break;
    const { name, target, ms } = fault;
    if (underWay.has(target)) {
      history.add({ type: 'fault-skipped', number, name, target });
      continue;
    }
    history.add({ type: 'fault', number, name, target, ms });
    const done = fault
      .run(cluster)
      .catch((err: unknown) => {
        // What it wanted to break may be broken already: the server is away, the process has just ended.
        history.add({ type: 'phase', name: `fault ${number} could not be done: ${String(err)}` });
      })
      .then(() => {
        underWay.delete(target);
        history.add({ type: 'fault-over', number, name });
      });
    underWay.set(target, done);
  }
  await Promise.all(underWay.values());
}
