import { randomUUID } from 'node:crypto';

let prefixMs: number | undefined;
let prefix = '';

/** A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix time in ms, then random bits; sorts by time of creation. */
export function uuidv7(nowMs: number = Date.now()): string {
  if (nowMs !== prefixMs) {
    const time = nowMs.toString(16).padStart(12, '0');
    prefix = `${time.slice(0, 8)}-${time.slice(8)}-7`;
    prefixMs = nowMs;
  }
  // The rest is what a version 4 has in these places.
  return prefix + randomUUID().slice(15);
}

/**
 * A UUIDv7 with room after it: the next million ids are free, for things that are made together. Their ids are in the
 * order of the things, and need not be remembered one by one.
 */
export function uuidv7WithRoom(): string {
  const id = uuidv7();
  // The first of the last 48 bits is zero, so that adding never carries beyond them.
  return id.slice(0, 24) + (Number.parseInt(id.slice(24), 16) % 2 ** 47).toString(16).padStart(12, '0');
}

/** The `n`th id after one of `uuidv7WithRoom`. */
export function uuidAfter(id: string, n: number): string {
  return id.slice(0, 24) + (Number.parseInt(id.slice(24), 16) + n).toString(16).padStart(12, '0');
}

/** When the UUIDv7 was made, by the clock of who made it. */
export function uuidTimeMs(id: string): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Ids in paths and cursors are checked before they reach SQL, where a malformed uuid is an error. */
export function isUuid(text: unknown): text is string {
  return typeof text === 'string' && uuidPattern.test(text);
}
