/**
 * Cursors of lists: where the next page begins, bound to what was asked for. They are opaque to clients and carry no
 * secret: a forged one can only begin at another place of the client's own list.
 */
import { createHash } from 'node:crypto';
import { AppError } from '#shared/errors.ts';

const bindingBytes = 8;

/** @param filter everything that decides which rows the list holds. */
export function encodeCursor(filter: string, position: string): string {
  return Buffer.concat([bind(filter), Buffer.from(position)]).toString('base64url');
}

/** @returns the position. @throws AppError `invalid-cursor` for cursors that were not made for this filter. */
export function decodeCursor(filter: string, cursor: string): string {
  const bytes = Buffer.from(cursor, 'base64url');
  if (!bytes.subarray(0, bindingBytes).equals(bind(filter)) || bytes.toString('base64url') !== cursor)
    throw invalidCursor();
  return bytes.subarray(bindingBytes).toString();
}

export function invalidCursor(): AppError {
  return new AppError(
    'invalid-cursor',
    'Send `nextCursor` of the previous page as it is, with the same query, or leave `cursor` out to begin again.',
  );
}

function bind(filter: string): Buffer {
  return createHash('sha256').update(filter).digest().subarray(0, bindingBytes);
}
