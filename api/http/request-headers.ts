import type { Request } from 'express';
import { AppError } from '#shared/errors.ts';

/** `Idempotency-Key`: 1 to 255 visible ASCII characters, bare or as a quoted string. */
export function readIdempotencyKey(req: Request): string | undefined {
  const raw = req.headers['idempotency-key'];
  if (raw === undefined) return undefined;
  const text = Array.isArray(raw) ? raw.join(',') : raw;
  const bare = /^"(.*)"$/.exec(text.trim())?.[1] ?? text.trim();
  if (!isIdempotencyKey(bare)) {
    throw new AppError(
      'invalid-idempotency-key',
      'The Idempotency-Key must be 1 to 255 visible ASCII characters, for example a UUID.',
    );
  }
  return bare;
}

export function isIdempotencyKey(text: string): boolean {
  return /^[\x21-\x7e]{1,255}$/.test(text);
}

/** A valid W3C `traceparent`, which is stored with the job; anything else is ignored, as the specification asks. */
export function readTraceparent(req: Request): string | undefined {
  const raw = req.headers['traceparent'];
  return typeof raw === 'string' && /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(raw)
    ? raw
    : undefined;
}

/** `?wait=30` or `Prefer: wait=30` (RFC 7240), in seconds; answered in ms, at most `maxMs`. */
export function readWaitMs(req: Request, queryWait: number | undefined, maxMs: number): number {
  const prefer = /(?:^|[,;\s])wait=(\d{1,4})(?:$|[,;\s])/.exec(String(req.headers['prefer'] ?? ''))?.[1];
  const seconds = queryWait ?? (prefer === undefined ? 0 : Number(prefer));
  return Math.min(seconds * 1_000, maxMs);
}
