import type { TaskDefinition } from '#shared/tasks/define-task.ts';

/**
 * The queues whose bundles are claimed whole, before there is a slot for each delivery, or for any (`claimsAhead` of the consumer). Those of task hosts:
 * what runs inside the worker has so many slots that its claims come in groups by themselves. What is claimed counts as begun, so
 * none with a task that must not run again after a crash, or that has one attempt, or whose runs must not begin more often than a
 * rate allows.
 */
export function findQueuesAhead(definitions: readonly TaskDefinition[]): ReadonlySet<string> {
  const queues = new Set(
    definitions.filter((task) => task.isolation === 'process').map((task) => task.queue),
  );
  for (const task of definitions) {
    const isExact =
      task.onCrash === 'fail' ||
      task.attempts.default === 1 ||
      task.rateLimit !== undefined ||
      task.rateLimitPerKey !== undefined;
    if (isExact) queues.delete(task.queue);
  }
  return queues;
}
