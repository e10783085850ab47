/**
 * Runs that end one soon after the other are written down together: one statement announces their files, and one settles them. By
 * itself each short run would cost Postgres two transactions. A run waits for others only while more of its queue are to
 * end in a moment: claimed jobs stand in line for its slot, or did so just now and others are being executed. Where no line is
 * (few jobs at a time) nothing waits; where there is one, all tenants of the queue share it.
 */
export interface EndGroups {
  /** Of a claimed job. Resolves to what `slot` resolves to: whether it may begin. */
  standInLine(queue: string, slot: Promise<boolean>): Promise<boolean>;
  execute<Result>(queue: string, run: () => Promise<Result>): Promise<Result>;
  /**
   * Resolves when the end of a run may be written: with the last of its group, or when its time is over. At once for one that cannot
   * wait; others need not wait for it any more.
   */
  join(queue: string, options: { canWait: boolean }): Promise<void>;
}

/** Most runs that end together. */
export const endGroupMax = 8;
/** Groups of a queue that may be ending: one gathers, one is stored; and now and then a disk stands still for a tenth of a second. */
export const endingGroupsMax = 3;
/** How long the first of a group waits for the last, in ms, and how long a line is remembered. */
const gatherMs = 100;

interface QueueEnds {
  inLine: number;
  executing: number;
  /** When a job stood in line. */
  lineMs: number;
  group: (() => void)[];
  timer: NodeJS.Timeout | undefined;
}

export function createEndGroups(): EndGroups {
  const queues = new Map<string, QueueEnds>();

  function of(name: string): QueueEnds {
    let queue = queues.get(name);
    if (queue === undefined) {
      queue = { inLine: 0, executing: 0, lineMs: Number.NEGATIVE_INFINITY, group: [], timer: undefined };
      queues.set(name, queue);
    }
    return queue;
  }

  function release(queue: QueueEnds): void {
    clearTimeout(queue.timer);
    queue.timer = undefined;
    for (const resolve of queue.group.splice(0)) resolve();
  }

  return {
    async standInLine(name, slot) {
      const queue = of(name);
      queue.inLine += 1;
      try {
        return await slot;
      } finally {
        queue.inLine -= 1;
        queue.lineMs = performance.now();
      }
    },
    async execute(name, run) {
      const queue = of(name);
      queue.executing += 1;
      try {
        return await run();
      } finally {
        queue.executing -= 1;
      }
    },
    join(name, { canWait }) {
      const queue = of(name);
      const joined = canWait ? new Promise<void>((resolve) => queue.group.push(resolve)) : Promise.resolve();
      const isRush = queue.executing > 0 && performance.now() - queue.lineMs < gatherMs;
      if (queue.group.length === endGroupMax || !(queue.inLine > 0 || isRush)) release(queue);
      else if (queue.group.length > 0) queue.timer ??= setTimeout(() => release(queue), gatherMs);
      return joined;
    },
  };
}
