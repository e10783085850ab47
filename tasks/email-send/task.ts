import { defineTask, fileRef, z } from '#shared/tasks/define-task.ts';

// Only what makes a text hopeless; address.ts has the whole rule and says what is wrong.
const address = z
  .string()
  .max(520)
  .regex(
    /^[^\r\n\0]*[^\s<>@]@[^\s<>@]+>?$/,
    'must be one address, as ada@example.com or Ada <ada@example.com>',
  );
const addresses = z.array(address).max(50);

const attachment = z
  .strictObject({
    fileId: fileRef().optional().describe('An uploaded file. Give this or `content`.'),
    content: z.base64().optional().describe('The bytes in base64; for small ones.'),
    filename: z.string().min(1).max(255).optional().describe('Default: the name of the uploaded file.'),
    contentType: z
      .string()
      .max(127)
      .regex(/^[\w.+-]+\/[\w.+-]+$/, 'must be a media type, as application/pdf')
      .optional(),
    contentId: z
      .string()
      .regex(/^[\w.@-]{1,128}$/, 'must be 1 to 128 of A-Z a-z 0-9 _ . @ -')
      .optional()
      .describe('Shows the attachment inside the HTML, at `<img src="cid:…">`.'),
  })
  .refine((item) => (item.fileId === undefined) !== (item.content === undefined), {
    message: 'give either `fileId` or `content`',
    path: ['fileId'],
  })
  .refine((item) => item.content === undefined || item.filename !== undefined, {
    message: 'is needed with `content`',
    path: ['filename'],
  });

const template = z.strictObject({
  name: z.string().min(1).max(64),
  variables: z
    .record(z.string(), z.unknown())
    .default({})
    .describe('Data for the template; it is never run as a template.'),
  locale: z
    .string()
    .max(35)
    .regex(/^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$/, 'must be a language tag, as de or pt-BR')
    .optional()
    .describe('A template that is not there in this language is sent in its default one.'),
});

export const task = defineTask({
  name: 'email.send',
  title: 'Send an e-mail',
  description: 'Sends one e-mail over SMTP, from a template or from given text, with attachments.',
  queue: 'email',
  isolation: 'inline',
  input: z
    .strictObject({
      from: address.optional().describe('Sender. Default: SMTP_FROM of the server.'),
      to: addresses.min(1),
      cc: addresses.default([]),
      bcc: addresses.default([]),
      replyTo: addresses.default([]),
      subject: z.string().max(500).optional().describe('Default: that of the template.'),
      html: z.string().max(2_000_000).optional(),
      text: z.string().max(2_000_000).optional().describe('Default: made from the HTML.'),
      template: template.optional(),
      attachments: z.array(attachment).max(20).default([]),
      headers: z
        .record(z.string(), z.string().max(998))
        .default({})
        .describe(
          'More headers: In-Reply-To, References, List-Id, Auto-Submitted, Feedback-ID … and X- ones of your own.',
        ),
      unsubscribe: z
        .strictObject({ url: z.url({ protocol: /^https$/ }) })
        .optional()
        .describe('Adds List-Unsubscribe with one click (RFC 8058): mail programs POST to this address.'),
      delivery: z
        .enum(['at-most-once', 'at-least-once'])
        .default('at-most-once')
        .describe(
          'What happens when the connection died and nobody knows whether the server took the e-mail: `at-most-once` fails the job, `at-least-once` sends it again.',
        ),
    })
    .refine(({ to, cc, bcc }) => to.length + cc.length + bcc.length <= 100, {
      message: 'to, cc and bcc hold more than 100 addresses together',
      path: ['to'],
    })
    .refine(
      (input) => (input.template === undefined) === (input.html !== undefined || input.text !== undefined),
      {
        message: 'give either `template`, or `html` or `text` or both',
        path: ['template'],
      },
    )
    .refine((input) => input.template !== undefined || input.subject !== undefined, {
      message: 'is needed without a template',
      path: ['subject'],
    })
    .refine((input) => Object.keys(input.headers).length <= 30, {
      message: 'more than 30 headers',
      path: ['headers'],
    }),
  output: z.object({
    messageId: z.string(),
    accepted: z.array(z.string()).describe('Addresses that the mail server took.'),
    rejected: z
      .array(z.object({ address: z.string(), reason: z.string() }))
      .describe('Addresses that it refused, while it took others.'),
    suppressed: z
      .array(z.string())
      .describe('Addresses left out, because an earlier e-mail to them was refused for good.'),
    response: z.string().describe('The last words of the mail server.'),
  }),
  example: {
    to: ['Ada Lovelace <ada@example.com>'],
    template: {
      name: 'welcome',
      variables: { name: 'Ada', product: 'Example', actionUrl: 'https://example.com/start' },
    },
  },
  // Greylisting lifts after minutes, a full mailbox or a busy server after an hour.
  attempts: { default: 8, max: 20 },
  backoff: { type: 'exponential', delayMs: 60_000, maxMs: 3_600_000 },
  timeoutMs: { default: 120_000, max: 600_000 },
});
