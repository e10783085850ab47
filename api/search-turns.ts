import { AppError } from '#shared/errors.ts';

export interface SearchTurns {
  /**
   * Runs `search` when it is its tenant's turn.
   * @param isWanted asked when the turn has come; a search that nobody waits for any more is left out, and undefined
   *   is answered.
   * @throws AppError `rate-limited` when too many searches of the tenant wait; what `search` fails with.
   */
  run<Result>(
    tenantId: string,
    isWanted: () => boolean,
    search: () => Promise<Result>,
  ): Promise<Result | undefined>;
}

/**
 * A search may read a whole table, and there are few connections to Postgres: without turns, some searches of one tenant would
 * take them all, and nobody could submit a job. At most `atOnce` run in this process, one of each tenant; the tenants that
 * wait take turns.
 */
export function createSearchTurns(options: { atOnce: number; waitingPerTenant: number }): SearchTurns {
  const { atOnce, waitingPerTenant } = options;
  /** By tenant, in the order of their turns. */
  const waiting = new Map<string, (() => void)[]>();
  const running = new Set<string>();

  function next(): void {
    for (const [tenantId, starts] of waiting) {
      if (running.size >= atOnce) return;
      if (running.has(tenantId)) continue;
      const start = starts.shift();
      waiting.delete(tenantId);
      // To the end of the line.
      if (starts.length > 0) waiting.set(tenantId, starts);
      running.add(tenantId);
      start?.();
    }
  }

  return {
    async run(tenantId, isWanted, search) {
      const starts = waiting.get(tenantId) ?? [];
      if (starts.length >= waitingPerTenant) {
        throw new AppError(
          'rate-limited',
          `${waitingPerTenant} searches wait already. Send the next one when they have been answered.`,
          { retryAfterSeconds: 2 },
        );
      }
      waiting.set(tenantId, starts);
      const turn = new Promise<void>((resolve) => starts.push(resolve));
      next();
      await turn;
      try {
        return isWanted() ? await search() : undefined;
      } finally {
        running.delete(tenantId);
        next();
      }
    },
  };
}
