/** How many more jobs of a tenant may wait, for what a worker makes by the thousand (`WINDLASS_WAITING_PER_TENANT_MAX`). */
import type { Db } from '#shared/db/pool.ts';
import { countWaitingOfTenant } from '#shared/db/tenant-usage.ts';

export interface TenantRoom {
  /** Infinity where there is no quota. */
  find(tenantId: string): Promise<number>;
  /** So many have been made. */
  take(tenantId: string, count: number): void;
}

const validMs = 5_000;
const tenantsMax = 1_000;

/**
 * A count is good for a while, less what was taken since: counting long queues takes time, at most a twentieth of it.
 * @param options.waitingMax 0: no quota.
 */
export function createTenantRoom(options: { db: Db; waitingMax: number }): TenantRoom {
  const { db, waitingMax } = options;
  const known = new Map<string, { left: number; untilMs: number }>();
  return {
    async find(tenantId) {
      if (waitingMax === 0) return Infinity;
      const startedMs = performance.now();
      const last = known.get(tenantId);
      if (last !== undefined && startedMs < last.untilMs) return last.left;
      const left = Math.max(0, waitingMax - (await countWaitingOfTenant(db, tenantId, waitingMax)));
      const tookMs = performance.now() - startedMs;
      if (known.size >= tenantsMax) known.clear();
      known.set(tenantId, { left, untilMs: startedMs + Math.max(validMs, tookMs * 20) });
      return left;
    },
    take(tenantId, count) {
      const last = known.get(tenantId);
      if (last !== undefined) last.left = Math.max(0, last.left - count);
    },
  };
}
