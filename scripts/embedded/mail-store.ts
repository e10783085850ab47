import { createWriteStream, existsSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { isUuid, uuidv7 } from '#shared/ids.ts';

/** Older ones are deleted. */
const mailsMax = 200;

/**
 * Keeps an e-mail as `<id>.eml`, all of it or nothing, and deletes those that are too old. `checkWhole` is called
 * when all bytes have arrived; what it throws refuses the mail.
 */
export async function keepMail(
  dir: string,
  mail: { source: Readable; headers: readonly string[]; checkWhole: () => void },
): Promise<void> {
  const id = uuidv7();
  const partial = join(dir, `${id}.part`);
  try {
    const file = createWriteStream(partial, { mode: 0o600 });
    file.write(mail.headers.map((line) => `${line}\r\n`).join(''));
    await pipeline(mail.source, file);
    mail.checkWhole();
    renameSync(partial, join(dir, `${id}.eml`));
  } finally {
    rmSync(partial, { force: true });
  }
  for (const old of listMailIds(dir).slice(mailsMax)) rmSync(join(dir, `${old}.eml`), { force: true });
}

/** Newest first: the ids are UUIDv7, which sort by time. */
export function listMailIds(dir: string): string[] {
  if (!existsSync(dir)) return [];
  const ids = readdirSync(dir).map((name) => (name.endsWith('.eml') ? name.slice(0, -'.eml'.length) : ''));
  return ids.filter(isUuid).toSorted().toReversed();
}

/** The e-mail as it was received; undefined when there is none of this id (any more). */
export function findMail(dir: string, id: string): Buffer | undefined {
  if (!isUuid(id)) return undefined;
  try {
    return readFileSync(join(dir, `${id}.eml`));
  } catch {
    return undefined;
  }
}
