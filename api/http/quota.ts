/**
 * What one tenant may have at once: jobs that wait, bytes that are stored. Counting takes too long to do it with each request,
 * so a count is good for a while, and for so many requests:
 *
 * - After each count this process may hand out a sixteenth of what is left (at least one), then it counts again. One process
 *   alone never passes the quota. Of several each knows of the others only what the last count showed: together they can pass it by
 *   a sixteenth for each further process, within the few seconds that a count is good for.
 * - What was handed out and is not known to be committed is added to the next count.
 * - Counting takes at most a twentieth of the time (a fifth where it is cheap). When a count is due and may not be made yet, requests wait for it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { AppError } from '#shared/errors.ts';

export interface Quota {
  /** Takes `amount`; call the answer, once, when what it was for is committed or given up. @throws AppError over the quota. */
  take(tenantId: string, amount: number): Promise<() => void>;
}

export const quotaShare = 16;
const countGoodMs = 5_000;
/** For refusing: there may be room again. */
const fullGoodMs = 500;
const pauseMsMin = 20;
const cheapMs = 25;
/** A count that may not be made for longer than this is not waited for. */
const waitMsMax = 5_000;
const tenantsMax = 10_000;

interface Usage {
  left: number;
  /** Of `left`, what this process may still hand out until the next count. */
  grant: number;
  countedMs: number;
  countAgainMs: number;
  inFlight: number;
  counting: Promise<void> | undefined;
}

/** @param options.max 0: no quota, and nothing is counted. */
export function createQuota(options: {
  max: number;
  count: (tenantId: string) => Promise<number>;
  refuse: () => AppError;
}): Quota {
  const { max, count, refuse } = options;
  const usages = new Map<string, Usage>();

  function usageOf(tenantId: string): Usage {
    const known = usages.get(tenantId);
    if (known !== undefined) return known;
    if (usages.size >= tenantsMax) usages.clear();
    const usage: Usage = {
      left: 0,
      grant: 0,
      countedMs: Number.NEGATIVE_INFINITY,
      countAgainMs: 0,
      inFlight: 0,
      counting: undefined,
    };
    usages.set(tenantId, usage);
    return usage;
  }

  async function recount(tenantId: string, usage: Usage): Promise<void> {
    const pauseMs = usage.countAgainMs - performance.now();
    if (pauseMs > waitMsMax) throw refuse();
    if (pauseMs > 0) await sleep(pauseMs);
    const startedMs = performance.now();
    // Before the look: what is committed during it is counted twice rather than not at all.
    const { inFlight } = usage;
    usage.left = max - inFlight - (await count(tenantId));
    usage.grant = Math.ceil(Math.max(0, usage.left) / quotaShare);
    const endedMs = performance.now();
    usage.countedMs = endedMs;
    const tookMs = endedMs - startedMs;
    usage.countAgainMs = endedMs + Math.max(pauseMsMin, tookMs * (tookMs < cheapMs ? 4 : 20));
  }

  return {
    async take(tenantId, amount) {
      if (max === 0) return () => {};
      const usage = usageOf(tenantId);
      for (;;) {
        const ageMs = performance.now() - usage.countedMs;
        const isGood = ageMs < countGoodMs;
        // What is larger than a share is let through alone, if it fits at all.
        const isCounted = isGood && usage.grant > 0 && amount > usage.grant && amount <= usage.left;
        if (isGood && (amount <= usage.grant || isCounted)) {
          usage.grant = isCounted ? 0 : usage.grant - amount;
          usage.left -= amount;
          usage.inFlight += amount;
          return () => {
            usage.inFlight -= amount;
          };
        }
        if (ageMs < fullGoodMs && amount > usage.left) throw refuse();
        usage.counting ??= recount(tenantId, usage).finally(() => {
          usage.counting = undefined;
        });
        await usage.counting;
      }
    },
  };
}
