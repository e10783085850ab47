import { InvalidInputError } from '#shared/tasks/define-task.ts';

/** Headers that a caller may set. All that address, date, sign or structure a message belong to us. */
const allowed: ReadonlySet<string> = new Set([
  'auto-submitted',
  'comments',
  'feedback-id',
  'importance',
  'in-reply-to',
  'keywords',
  'list-archive',
  'list-help',
  'list-id',
  'list-owner',
  'list-post',
  'list-subscribe',
  'organization',
  'precedence',
  'priority',
  'references',
  'require-recipient-valid-since',
  'sensitivity',
]);

/**
 * Headers of one's own begin with X-, but some mail services take orders from such headers, among them to add
 * recipients (X-MC-BccAddress, X-SMTPAPI).
 */
const obeyedPrefix =
  /^x-(smtpapi|mc-|mailgun|mandrill|mj-|pm-|postmark|ses-|amz|msys|sib|sendinblue|elastic|sg-|rcpt|envelope|bcc|cc$|to$|from$|sender|original|forward)/;

/**
 * The caller's headers, in the form nodemailer takes.
 * @throws InvalidInputError for a header that is not on the list, or a value with a line break.
 */
export function checkHeaders(headers: Readonly<Record<string, string>>): { key: string; value: string }[] {
  return Object.entries(headers).map(([key, value]) => {
    const name = key.toLowerCase();
    if (!/^[a-z][a-z0-9-]{0,63}$/.test(name)) {
      throw new InvalidInputError(`${JSON.stringify(key.slice(0, 80))} is not the name of a header.`);
    }
    const isOwn = name.startsWith('x-') && !obeyedPrefix.test(name);
    if (!isOwn && !allowed.has(name)) {
      throw new InvalidInputError(
        `The header ${key} cannot be set. Allowed are ${[...allowed].join(', ')}, and X- headers of your own.`,
      );
    }
    // oxlint-disable-next-line no-control-regex -- Control characters are what it looks for.
    if (/[\u0000-\u0008\u000a-\u001f\u007f]/.test(value)) {
      throw new InvalidInputError(`The header ${key} holds a line break or control character.`);
    }
    return { key, value };
  });
}
