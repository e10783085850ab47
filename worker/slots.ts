import type { TaskDefinition } from '#shared/tasks/define-task.ts';

export interface Slots {
  /** Jobs at once, per queue that this worker serves. */
  readonly perQueue: Readonly<Record<string, number>>;
  /** Slots of queues with at least one task that runs in a task host: so many hosts may be needed. */
  readonly process: number;
}

/**
 * Which queues this worker serves, and how many jobs of each at once.
 * @param options.named from WINDLASS_QUEUES; when it names any, only those are served.
 */
export function assignSlots(
  tasks: readonly TaskDefinition[],
  options: { named: Readonly<Record<string, number>>; process: number; inline: number },
): Slots {
  const isNamed = Object.keys(options.named).length > 0;
  const perQueue: Record<string, number> = {};
  let processSlots = 0;
  for (const [queue, group] of Map.groupBy(tasks, (task) => task.queue)) {
    const needsHosts = group.some((task) => task.isolation === 'process');
    const slots = isNamed ? options.named[queue] : needsHosts ? options.process : options.inline;
    if (slots === undefined) continue;
    perQueue[queue] = slots;
    if (needsHosts) processSlots += slots;
  }
  const unknown = Object.keys(options.named).filter((queue) => perQueue[queue] === undefined);
  if (unknown.length > 0) {
    const known = [...new Set(tasks.map((task) => task.queue))].join(', ');
    throw new Error(
      `WINDLASS_QUEUES names ${unknown.join(', ')}, but no task uses such a queue. Known: ${known}.`,
    );
  }
  return { perQueue, process: processSlots };
}
