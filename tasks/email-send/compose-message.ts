/** From the job's input to a message and its envelope. Nothing is sent here, and nothing but the input's files is read. */
import type { Readable } from 'node:stream';
import MailComposer from 'nodemailer/lib/mail-composer';
import { InvalidInputError, type TaskContext, type z } from '#shared/tasks/define-task.ts';
import { parseAddress, type MailAddress } from './address.ts';
import { readAttachments, toComposerAttachment, type Attachment } from './attachments.ts';
import { checkHeaders } from './header-list.ts';
import { htmlToPlainText } from './html-to-plain-text.ts';
import type { MailSettings } from './mail-settings.ts';
import { oneLine } from './one-line.ts';
import { renderTemplate } from './render-template.ts';
import type { task } from './task.ts';

/** Bytes of an e-mail before encoding, which adds a third; most servers take no more. */
const messageBytesMax = 25 * 1024 * 1024;

type Input = z.output<(typeof task)['input']>;

export interface Letter {
  readonly messageId: string;
  readonly from: MailAddress;
  readonly to: readonly MailAddress[];
  readonly cc: readonly MailAddress[];
  readonly bcc: readonly MailAddress[];
  readonly replyTo: readonly MailAddress[];
  readonly subject: string;
  readonly html: string | undefined;
  readonly text: string;
  readonly attachments: readonly Attachment[];
  readonly headers: readonly { readonly key: string; readonly value: string }[];
}

/** @throws InvalidInputError for whatever in the input can never be sent. */
export async function writeLetter(
  input: Input,
  ctx: Pick<TaskContext, 'jobId' | 'file'>,
  settings: Pick<MailSettings, 'from' | 'fromDomains'>,
): Promise<Letter> {
  const from = input.from === undefined ? settings.from : parseAddress(input.from);
  if (!settings.fromDomains.includes(from.domain)) {
    throw new InvalidInputError(
      `E-mails cannot be sent from ${from.domain}. Allowed are ${settings.fromDomains.join(', ')} (SMTP_FROM_DOMAINS).`,
    );
  }
  const body = await writeBody(input);
  const attachments = readAttachments(input, ctx);
  const sizeBytes = attachments.reduce(
    (sum, item) => sum + item.sizeBytes,
    Buffer.byteLength(body.text) + Buffer.byteLength(body.html ?? ''),
  );
  if (sizeBytes > messageBytesMax) {
    throw new InvalidInputError(
      `The e-mail has ${sizeBytes} bytes, more than ${messageBytesMax}. Send links instead of attachments.`,
    );
  }
  return {
    // Kept over retries: a receiver that gets the e-mail twice can tell.
    messageId: `<${ctx.jobId}@${from.domain}>`,
    from,
    to: input.to.map(parseAddress),
    cc: input.cc.map(parseAddress),
    bcc: input.bcc.map(parseAddress),
    replyTo: input.replyTo.map(parseAddress),
    subject: oneLine(input.subject ?? body.subject),
    html: body.html,
    text: body.text,
    attachments,
    headers: [...checkHeaders(input.headers), ...unsubscribeHeaders(input.unsubscribe?.url)],
  };
}

async function writeBody(input: Input): Promise<{ subject: string; html: string | undefined; text: string }> {
  if (input.template !== undefined) return await renderTemplate(input.template);
  const { html } = input;
  return { subject: '', html, text: input.text ?? htmlToPlainText(html ?? '') };
}

/** Everyone the letter goes to, once each. */
export function recipientsOf(letter: Letter): string[] {
  return [...new Set([...letter.to, ...letter.cc, ...letter.bcc].map(({ address }) => address))];
}

/**
 * The bytes of the letter, made as they are read.
 * @param excluded addresses that do not get it, and so are not named in it.
 */
export function composeMessage(letter: Letter, excluded: ReadonlySet<string>): Readable {
  const included = (list: readonly MailAddress[]) =>
    list.filter(({ address }) => !excluded.has(address)).map(toObject);
  const composer = new MailComposer({
    from: toObject(letter.from),
    to: included(letter.to),
    cc: included(letter.cc),
    // Bcc stands in the envelope only.
    replyTo: letter.replyTo.map(toObject),
    messageId: letter.messageId,
    subject: letter.subject,
    text: letter.text,
    ...(letter.html !== undefined && { html: letter.html }),
    attachments: letter.attachments.map(toComposerAttachment),
    headers: letter.headers.map((header) => ({ ...header })),
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  return composer.compile().createReadStream();
}

/** Never as text: nodemailer would read "b@x, evil@x" as two recipients. */
function toObject({ name, address }: MailAddress): { name: string; address: string } {
  return { name, address };
}

/** RFC 8058: both headers, and https, or mail programs show no button. */
function unsubscribeHeaders(url: string | undefined): { key: string; value: string }[] {
  if (url === undefined) return [];
  // Angle brackets and spaces are percent-encoded in it.
  const { href } = new URL(url);
  return [
    { key: 'List-Unsubscribe', value: `<${href}>` },
    { key: 'List-Unsubscribe-Post', value: 'List-Unsubscribe=One-Click' },
  ];
}
