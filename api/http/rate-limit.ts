/**
 * A token bucket per tenant, in this process: it protects the api from a runaway client. The headers follow
 * draft-ietf-httpapi-ratelimit-headers-11 (`RateLimit-Policy: "default";q=100;w=60`, `RateLimit: "default";r=42;t=3`).
 */
import type { Response } from 'express';
import { AppError } from '#shared/errors.ts';

export interface RateLimiter {
  /**
   * Takes one token, or `count` of them, and says so in the headers while they can still be set.
   * @throws AppError `rate-limited` with Retry-After; `content-too-large` for more than there ever are.
   */
  take(tenantId: string, res: Response, count?: number): void;
}

const windowSeconds = 60;
const bucketsMax = 10_000;

export function createRateLimiter(
  perMinute: number,
  nowMs: () => number = () => performance.now(),
): RateLimiter {
  const buckets = new Map<string, { tokens: number; atMs: number }>();
  const perMs = perMinute / 60_000;
  const policy = `"default";q=${perMinute};w=${windowSeconds}`;
  return {
    take(tenantId, res, count = 1) {
      const now = nowMs();
      let bucket = buckets.get(tenantId);
      if (bucket === undefined) {
        if (buckets.size >= bucketsMax) buckets.clear();
        bucket = { tokens: perMinute, atMs: now };
        buckets.set(tenantId, bucket);
      }
      bucket.tokens = Math.min(perMinute, bucket.tokens + (now - bucket.atMs) * perMs);
      bucket.atMs = now;
      if (count > perMinute) {
        throw new AppError(
          'content-too-large',
          `${count} jobs are more than ${perMinute} a minute (WINDLASS_RATE_PER_MINUTE). Send fewer at once.`,
        );
      }
      const isOver = bucket.tokens < count;
      if (!isOver) bucket.tokens -= count;
      const resetSeconds = Math.ceil((isOver ? count - bucket.tokens : 0) / perMs / 1_000);
      if (!res.headersSent) {
        res.setHeader('RateLimit-Policy', policy);
        res.setHeader('RateLimit', `"default";r=${Math.floor(bucket.tokens)};t=${resetSeconds}`);
      }
      if (isOver) {
        throw new AppError(
          'rate-limited',
          `More than ${perMinute} requests and jobs of batches a minute (WINDLASS_RATE_PER_MINUTE). Wait as long as Retry-After says.`,
          {
            retryAfterSeconds: Math.max(1, resetSeconds),
          },
        );
      }
    },
  };
}
