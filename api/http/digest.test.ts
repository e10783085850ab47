import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { expect, test } from 'vitest';
import { AppError } from '#shared/errors.ts';
import { formatReprDigest, readDigests, type ExpectedDigests } from './digest.ts';

const sha256 = createHash('sha256').update('hello').digest();
const sha512 = createHash('sha512').update('hello').digest();
const announced256 = `sha-256=:${sha256.toString('base64')}:`;
const announced512 = `sha-512=:${sha512.toString('base64')}:`;

test.for<[IncomingHttpHeaders, ExpectedDigests]>([
  [{}, {}],
  [{ 'repr-digest': announced256 }, { sha256 }],
  [{ 'content-digest': announced512 }, { sha512 }],
  [{ 'repr-digest': `${announced256}, ${announced512}` }, { sha256, sha512 }],
  [{ 'repr-digest': announced256, 'content-digest': announced256 }, { sha256 }],
  // Base64 without padding, a parameter, more than one space.
  [{ 'repr-digest': `  sha-256=:${sha256.toString('base64').replace('=', '')}:;q=1 ` }, { sha256 }],
  // Unknown and retired algorithms are left alone.
  [{ 'repr-digest': `md5=:1B2M2Y8AsgTpgAmY7PhCfg==:, ${announced256}, blake3=:AAAA:` }, { sha256 }],
  [{ 'repr-digest': 'unixsum=:AAA=:' }, {}],
])('%j announces what it says', ([headers, digests]) => {
  expect(readDigests(headers)).toEqual(digests);
});

test.for<[IncomingHttpHeaders, string]>([
  [
    { 'repr-digest': 'sha-256=abc' },
    'The header Repr-Digest is malformed: "sha-256=abc" is not algorithm=:base64:. ',
  ],
  [{ 'repr-digest': '' }, 'is not algorithm=:base64:'],
  [{ 'content-digest': `sha-256=:!!!!:` }, 'The header Content-Digest is malformed'],
  [{ 'repr-digest': `${announced256},` }, '"" is not algorithm=:base64:'],
  [{ 'repr-digest': 'sha-256=:AAAA:' }, 'sha-256 has 3 bytes instead of 32'],
  [{ 'repr-digest': `sha-512=:${sha256.toString('base64')}:` }, 'sha-512 has 32 bytes instead of 64'],
  [
    { 'repr-digest': announced256, 'content-digest': `sha-256=:${Buffer.alloc(32).toString('base64')}:` },
    'announce different sha-256 digests',
  ],
])('%j is refused', ([headers, message]) => {
  expect(() => readDigests(headers)).toThrow(
    expect.objectContaining({ code: 'bad-request', message: expect.stringContaining(message) }),
  );
  expect(() => readDigests(headers)).toThrow(AppError);
});

test('what we send, we understand', () => {
  expect(readDigests({ 'repr-digest': formatReprDigest(sha256.toString('hex')) })).toEqual({ sha256 });
});
