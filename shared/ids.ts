import { randomBytes } from 'node:crypto';

/**
 * A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix time in ms, 12 that count the ids of this process in that ms (§6.2, method 1), 62
 * random ones. Sorts by time of creation; so do 2,000 and more that a process makes in one ms, as those of one file's entries are.
 */
export function uuidv7(nowMs: number = Date.now()): string {
  const at = takeRandom();
  if (nowMs !== timeMs || count === countMax) {
    const hex = nowMs.toString(16).padStart(12, '0');
    time = `${hex.slice(0, 8)}-${hex.slice(8)}`;
    timeMs = nowMs;
    // From somewhere in the lower half: two processes begin at different numbers.
    count = Number.parseInt(random.slice(at, at + 3), 16) & (countMax >> 1);
  } else count += 1;
  const counted = count.toString(16).padStart(3, '0');
  return `${time}-7${counted}-${random.slice(at + 4, at + 8)}-${random.slice(at + 8, at + 20)}`;
}

// One call into the kernel, and one conversion, for 256 ids: each by itself costs more than the rest of making an id.
const idBytes = 10;
let timeMs: number | undefined;
let time = '';
let count = 0;
const countMax = 0xfff;
let random = '';
let used = 0;

/** @returns where in `random` 20 digits begin: 3 for where a count begins (and one to spare), 4 with the variant, 12. */
function takeRandom(): number {
  if (used === random.length) {
    const bytes = randomBytes(idBytes * 256);
    for (let at = 2; at < bytes.length; at += idBytes) bytes[at] = ((bytes[at] ?? 0) & 0x3f) | 0x80;
    random = bytes.toString('hex');
    used = 0;
  }
  used += idBytes * 2;
  return used - idBytes * 2;
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
