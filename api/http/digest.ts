import type { IncomingHttpHeaders } from 'node:http';
import { AppError } from '#shared/errors.ts';

/** The digests that a client announced, as raw bytes; algorithms that we do not know are left out. */
export interface ExpectedDigests {
  readonly sha256?: Buffer;
  readonly sha512?: Buffer;
}

/** RFC 9530 names, ours, and how long the value is. The RFC's other algorithms are insecure or checksums. */
const algorithms = [
  { key: 'sha-256', field: 'sha256', bytes: 32 },
  { key: 'sha-512', field: 'sha512', bytes: 64 },
] as const;

/**
 * Reads `Repr-Digest` and `Content-Digest` (RFC 9530) of a request whose body is one file. Without a content coding
 * both speak of the same bytes, so each that is there must match.
 * @throws AppError `bad-request` when one is malformed, or the two contradict each other.
 */
export function readDigests(headers: IncomingHttpHeaders): ExpectedDigests {
  const found: { sha256?: Buffer; sha512?: Buffer } = {};
  for (const header of ['repr-digest', 'content-digest'] as const) {
    const members = parseDigests(header, headers[header]);
    for (const { key, field, bytes } of algorithms) {
      const value = members.get(key);
      if (!value) continue;
      if (value.length !== bytes)
        throw malformed(header, `${key} has ${value.length} bytes instead of ${bytes}`);
      if (found[field] && !found[field].equals(value)) {
        throw new AppError(
          'bad-request',
          `Repr-Digest and Content-Digest announce different ${key} digests.`,
        );
      }
      found[field] = value;
    }
  }
  return found;
}

/** `Repr-Digest` of bytes with this SHA-256 (lower-case hex). */
export function formatReprDigest(sha256: string): string {
  return `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`;
}

/** A dictionary of byte sequences (RFC 8941 §3.2, §3.3.5); the last of two equal keys counts, as the RFC says. */
function parseDigests(header: string, value: string | string[] | undefined): Map<string, Buffer> {
  const members = new Map<string, Buffer>();
  if (value === undefined) return members;
  for (const text of String(value).split(',')) {
    const match =
      /^([a-z*][a-z0-9_.*-]*)=:((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2,3}={0,2})?):(?:;.*)?$/.exec(
        text.trim(),
      );
    if (match?.[1] === undefined || match[2] === undefined)
      throw malformed(header, `"${text.trim().slice(0, 100)}" is not algorithm=:base64:`);
    members.set(match[1], Buffer.from(match[2], 'base64'));
  }
  return members;
}

function malformed(header: string, why: string): AppError {
  const name = header === 'repr-digest' ? 'Repr-Digest' : 'Content-Digest';
  return new AppError(
    'bad-request',
    `The header ${name} is malformed: ${why}. Example: sha-256=:<base64 of 32 bytes>:`,
  );
}
