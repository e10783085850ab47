/**
 * Reads one e-mail address, as `ada@example.com` or `Ada Lovelace <ada@example.com>`.
 *
 * This is much less than RFC 5322 allows, on purpose: quoted names, comments, groups and lists are how one address
 * becomes two somewhere between us and the mail server. What passes holds no character with a meaning in a header.
 */
import { domainToASCII } from 'node:url';
import { InvalidInputError } from '#shared/tasks/define-task.ts';

export interface MailAddress {
  /** Empty when there is none. */
  readonly name: string;
  /** `local@domain`, the domain in lower case and ASCII (IDNA). */
  readonly address: string;
  readonly domain: string;
}

/** @throws InvalidInputError that says what is wrong with the text. */
export function parseAddress(text: string): MailAddress {
  // oxlint-disable-next-line no-control-regex -- Control characters are what it looks for.
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(text))
    throw wrong(text, 'holds a line break or control character');
  const trimmed = text.trim();
  const named = /^([^<>]*)<([^<>]*)>$/.exec(trimmed);
  const name = parseName(named?.[1] ?? '', text);
  const address = (named?.[2] ?? trimmed).trim();
  const at = address.lastIndexOf('@');
  if (at <= 0) throw wrong(text, 'is not of the form name@domain');
  const local = address.slice(0, at);
  if (local.length > 64 || !localPart.test(local)) {
    throw wrong(
      text,
      "has a part before the @ that is longer than 64 characters or not of plain letters, digits and .!#$%&'*+/=?^_`{|}~-",
    );
  }
  const domain = parseDomain(address.slice(at + 1));
  if (domain === undefined) throw wrong(text, 'has a domain that is no host name');
  const whole = `${local}@${domain}`;
  if (whole.length > 254) throw wrong(text, 'is longer than 254 characters');
  return { name, address: whole, domain };
}

/** Dot-atom of RFC 5322 §3.2.3: ASCII, no dot at the ends, no two in a row. */
const localPart = /^[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*$/;

/** A host name of RFC 1123, with international labels in their ASCII form; no address literal. */
export function parseDomain(text: string): string | undefined {
  // The host parser of URLs takes more than host names: percent signs, IPv4 in hexadecimal.
  if (/[%:[\]/?#\\@\s]/.test(text)) return undefined;
  const domain = domainToASCII(text.normalize('NFC')).toLowerCase();
  const labels = domain.split('.');
  const isHostName = labels.every((label) => /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(label));
  if (!isHostName || domain.length > 253 || /^\d+$/.test(labels.at(-1) ?? '')) return undefined;
  return domain;
}

function parseName(text: string, whole: string): string {
  const name = text.trim();
  if (name.length > 200) throw wrong(whole, 'has a name of more than 200 characters');
  const special = /[",;:()[\]\\@]/.exec(name)?.[0];
  if (special !== undefined)
    throw wrong(whole, `has a ${special} in its name; leave it out (one address each, no quotes)`);
  return name;
}

function wrong(text: string, what: string): InvalidInputError {
  return new InvalidInputError(`The address ${JSON.stringify(text.slice(0, 120))} ${what}.`);
}
