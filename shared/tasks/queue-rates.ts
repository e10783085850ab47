import type { RateLimit, TaskDefinition } from './define-task.ts';

export interface QueueRates {
  readonly queue: RateLimit | null;
  readonly key: RateLimit | null;
}

/**
 * The rates of each queue, as its tasks say.
 * @throws TypeError when two tasks of one queue say different things.
 */
export function findQueueRates(definitions: readonly TaskDefinition[]): Map<string, QueueRates> {
  const rates = new Map<string, QueueRates>();
  for (const queue of new Set(definitions.map((task) => task.queue))) {
    const tasks = definitions.filter((task) => task.queue === queue);
    rates.set(queue, { queue: findRate(tasks, 'rateLimit'), key: findRate(tasks, 'rateLimitPerKey') });
  }
  return rates;
}

function findRate(
  tasks: readonly TaskDefinition[],
  field: 'rateLimit' | 'rateLimitPerKey',
): RateLimit | null {
  const [first, ...others] = tasks.filter((task) => task[field] !== undefined);
  const rate = first?.[field];
  if (first === undefined || rate === undefined) return null;
  const other = others.find((task) => task[field]?.max !== rate.max || task[field]?.perMs !== rate.perMs);
  if (other !== undefined)
    throw new TypeError(
      `The tasks "${first.name}" and "${other.name}" share the queue "${first.queue}" and differ in ${field}: it is a limit of the queue. Say the same, or only once.`,
    );
  return rate;
}
