import { describe, expect, it } from 'vitest';
import { InvalidInputError, NotNowError, type z } from '#shared/tasks/define-task.ts';
import { EffectUnknownError } from '#shared/tasks/task-errors.ts';
import { runTask, testFile, type RecordedEffect, type TestFile } from '#shared/tasks/testing.ts';
import handler from './handler.ts';
import { startMailServer, type TestMailServer } from './mail-server.testing.ts';
import { task } from './task.ts';

type Input = z.input<(typeof task)['input']>;

interface SendOptions {
  readonly settings?: Record<string, unknown>;
  readonly effects?: Map<string, RecordedEffect>;
  readonly memory?: Map<string, unknown>;
  readonly files?: readonly TestFile[];
  readonly signal?: AbortSignal;
}

/** Sends an e-mail through `server`; what is not given is `to`, `subject` and `text`. */
async function send(
  server: Pick<TestMailServer, 'url'>,
  input: Partial<Input> = {},
  options: SendOptions = {},
) {
  const { settings, ...rest } = options;
  const run = await runTask({
    definition: task,
    handler,
    input: { to: ['ada@example.com'], subject: 'Hi', text: 'Hello', ...input },
    settings: {
      SMTP_URL: server.url,
      SMTP_FROM: 'Shop <shop@example.org>',
      SMTP_FROM_DOMAINS: [],
      SMTP_REQUIRE_TLS: false,
      ...settings,
    },
    ...rest,
  });
  return run.result;
}

describe('email.send', () => {
  it('hands an e-mail to the mail server', async () => {
    await using server = await startMailServer();
    const result = await send(server, {
      to: ['Ada Lovelace <ada@example.com>'],
      cc: ['bo@Example.NET'],
      bcc: ['cy@example.com'],
      replyTo: ['help@example.org'],
      subject: 'Grüße\r\nBcc: evil@example.com',
      html: '<h1>Hello</h1><p>See <a href="https://example.com/x">this</a></p>',
      text: undefined,
      headers: { 'In-Reply-To': '<1@example.com>', 'X-Campaign': 'spring' },
      unsubscribe: { url: 'https://example.com/u?id=1' },
    });
    expect(result).toMatchObject({
      accepted: ['ada@example.com', 'bo@example.net', 'cy@example.com'],
      rejected: [],
      suppressed: [],
      response: expect.stringMatching(/^250 /),
    });
    const [mail] = server.mails;
    expect(mail).toMatchObject({
      from: 'shop@example.org',
      to: ['ada@example.com', 'bo@example.net', 'cy@example.com'],
      headers: {
        from: 'Shop <shop@example.org>',
        to: 'Ada Lovelace <ada@example.com>',
        cc: 'bo@example.net',
        'reply-to': 'help@example.org',
        'message-id': result.messageId,
        'in-reply-to': '<1@example.com>',
        'x-campaign': 'spring',
        'list-unsubscribe': '<https://example.com/u?id=1>',
        'list-unsubscribe-post': 'List-Unsubscribe=One-Click',
        subject: expect.stringContaining('=?UTF-8?'),
      },
    });
    expect(mail?.headers).not.toHaveProperty('bcc');
    expect(mail?.raw).toContain('text/html');
    expect(mail?.raw).toMatch(/text\/plain[^]*Hello\r\n\r\nSee this \[https:\/\/example\.com\/x\]/);
  });

  it('names the message after its job', async () => {
    await using server = await startMailServer();
    const { messageId } = await send(server, { from: 'Shop <news@example.org>' });
    expect(messageId).toMatch(/^<[0-9a-f-]{36}@example\.org>$/);
    expect(server.mails[0]?.from).toBe('news@example.org');
  });

  it('fills in a template in the language of the reader', async () => {
    await using server = await startMailServer();
    const variables = { name: 'Ada', product: 'Beispiel', actionUrl: 'https://example.com/start' };
    await send(server, {
      subject: undefined,
      text: undefined,
      template: { name: 'welcome', variables, locale: 'de-AT' },
    });
    expect(server.mails[0]?.headers['subject']).toBe('Willkommen bei Beispiel, Ada');
    expect(server.mails[0]?.raw).toContain('Hier geht es los');
  });

  it('attaches uploaded files and given bytes', async () => {
    await using server = await startMailServer();
    const file = testFile(Buffer.from('%PDF-1.7 hello'), {
      name: 'Rechnung März.pdf',
      mediaType: 'application/pdf',
    });
    await send(
      server,
      {
        html: '<img src="cid:logo">',
        attachments: [
          { fileId: file.id },
          {
            content: Buffer.from('GIF89a').toString('base64'),
            filename: '../../logo.gif',
            contentType: 'image/gif',
            contentId: 'logo',
          },
        ],
      },
      { files: [file] },
    );
    const { raw = '' } = server.mails[0] ?? {};
    expect(raw).toMatch(/Content-Type: application\/pdf;/);
    expect(raw).toContain("filename*0*=utf-8''Rechnung%20M%C3%A4rz.pdf");
    expect(raw).toContain(Buffer.from('%PDF-1.7 hello').toString('base64'));
    expect(raw).toMatch(
      /Content-Type: image\/gif; name=logo\.gif[^]*Content-Id: <logo>[^]*Content-Disposition: inline; filename=logo\.gif/i,
    );
  });

  it('keeps one connection for several e-mails, and closes it when idle', async () => {
    await using server = await startMailServer();
    await send(server);
    await send(server);
    expect(server.mails).toHaveLength(2);
    expect(server.connections).toEqual({ made: 1, open: 1 });
    server.cutConnections();
    await send(server);
    expect(server.mails).toHaveLength(3);
  });
});

describe('email.send: what the mail server says', () => {
  it('fails for good when no recipient exists, and suppresses the addresses', async () => {
    await using server = await startMailServer({ onAddress: () => '550 5.1.1 No such user' });
    const memory = new Map<string, unknown>();
    const sending = send(server, { to: ['Gone@example.com'] }, { memory });
    await expect(sending).rejects.toBeInstanceOf(InvalidInputError);
    await expect(sending).rejects.toThrow('550 5.1.1 No such user');
    expect(memory.get('suppressed:gone@example.com')).toMatchObject({ reason: '550 5.1.1 No such user' });

    const again = send(server, { to: ['gone@example.com'] }, { memory });
    await expect(again).rejects.toThrow('Every recipient is suppressed');
    expect(server.mails).toEqual([]);
  });

  it('sends to the others when one recipient is refused, and leaves it out next time', async () => {
    const onAddress = (address: string) => (address.startsWith('gone') ? '550 No such user' : undefined);
    await using server = await startMailServer({ onAddress });
    const memory = new Map<string, unknown>();
    const to = ['ada@example.com', 'gone@example.com'];
    expect(await send(server, { to }, { memory })).toMatchObject({
      accepted: ['ada@example.com'],
      rejected: [{ address: 'gone@example.com', reason: '550 No such user' }],
    });
    expect(await send(server, { to }, { memory })).toMatchObject({
      rejected: [],
      suppressed: ['gone@example.com'],
    });
    expect(server.mails[1]).toMatchObject({ to: ['ada@example.com'], headers: { to: 'ada@example.com' } });
  });

  it('does not suppress an address for what is said about us, its size or the moment', async () => {
    for (const reply of ['550 5.7.1 Relaying denied', '552 5.2.2 Mailbox full', '451 4.7.1 Greylisted']) {
      await using server = await startMailServer({ onAddress: () => reply });
      const memory = new Map<string, unknown>();
      await expect(send(server, {}, { memory })).rejects.toThrow(reply);
      expect(memory).toEqual(new Map());
    }
  });

  it.each([
    ['the sender', { onSender: () => '553 5.1.8 Bad sender' }],
    ['the content', { onMessage: () => '554 5.6.0 Looks like spam' }],
  ])('fails for good when %s is refused for good', async (_, answers) => {
    await using server = await startMailServer(answers);
    const memory = new Map<string, unknown>();
    await expect(send(server, {}, { memory })).rejects.toBeInstanceOf(InvalidInputError);
    expect(memory).toEqual(new Map());
  });

  it.each([
    ['the recipient', { onAddress: () => '451 4.7.1 Greylisted' }],
    ['the sender', { onSender: () => '450 Slow down' }],
    ['the content', { onMessage: () => '452 Disk full' }],
  ])('tries again with backoff when %s is refused for now', async (_, answers) => {
    await using server = await startMailServer(answers);
    const effects = new Map<string, RecordedEffect>();
    const err = await send(server, {}, { effects }).catch((thrown: unknown) => thrown);
    expect(err).toHaveProperty('problem', 'deferred');
    expect(effects).toEqual(new Map());
  });

  it('uses no attempt when the server is down or closing', async () => {
    const server = await startMailServer();
    await server[Symbol.asyncDispose]();
    const effects = new Map<string, RecordedEffect>();
    const err = await send(server, {}, { effects }).catch((thrown: unknown) => thrown);
    expect(err).toBeInstanceOf(NotNowError);
    expect(err).toHaveProperty('delayMs', 60_000);
    expect(effects).toEqual(new Map());

    await using closing = await startMailServer({ onAddress: () => '421 4.3.2 Shutting down' });
    await expect(send(closing)).rejects.toBeInstanceOf(NotNowError);
  });

  it('does not send again what the server may have taken', async () => {
    let taken = 0;
    await using server = await startMailServer({
      onMessage: () => {
        taken += 1;
        return 'drop';
      },
    });
    const effects = new Map<string, RecordedEffect>();
    await expect(send(server, {}, { effects })).rejects.toHaveProperty('problem', 'unknown');
    await expect(send(server, {}, { effects })).rejects.toBeInstanceOf(EffectUnknownError);
    expect(taken).toBe(1);
  });

  it('sends again what the server may have taken when at-least-once is asked for', async () => {
    const ids: (string | undefined)[] = [];
    await using server = await startMailServer({
      onMessage: ({ headers }) => (ids.push(headers['message-id']) === 1 ? 'drop' : undefined),
    });
    const effects = new Map<string, RecordedEffect>();
    await expect(send(server, { delivery: 'at-least-once' }, { effects })).rejects.toHaveProperty(
      'problem',
      'unknown',
    );
    await send(server, { delivery: 'at-least-once' }, { effects });
    expect(server.mails).toHaveLength(1);
    expect(ids).toHaveLength(2);
  });

  it('does not repeat a delivery that was recorded, and reports it again', async () => {
    await using server = await startMailServer();
    const effects = new Map<string, RecordedEffect>();
    const first = await send(server, {}, { effects });
    const second = await send(server, {}, { effects });
    expect({ ...second, messageId: '' }).toEqual({ ...first, messageId: '' });
    expect(server.mails).toHaveLength(1);
  });

  it('does not send again when the ledger could not be written after the server took the e-mail', async () => {
    await using server = await startMailServer();
    class ForgetfulLedger extends Map<string, RecordedEffect> {
      override set(key: string, effect: RecordedEffect): this {
        if (effect.isFinished) throw new Error('The database is gone');
        return super.set(key, effect);
      }
    }
    const effects = new ForgetfulLedger();
    await expect(send(server, {}, { effects })).rejects.toThrow('The database is gone');
    await expect(send(server, {}, { effects })).rejects.toBeInstanceOf(EffectUnknownError);
    expect(server.mails).toHaveLength(1);
  });

  it('sends nothing when the job is cancelled before the message has gone', async () => {
    const abort = new AbortController();
    const reason = new Error('cancelled');
    await using server = await startMailServer({
      onAddress: () => {
        abort.abort(reason);
        return undefined;
      },
    });
    const effects = new Map<string, RecordedEffect>();
    await expect(send(server, {}, { effects, signal: abort.signal })).rejects.toBe(reason);
    expect(server.mails).toEqual([]);
    expect(effects).toEqual(new Map());
  });

  it('says to look at SMTP_URL when the login is refused', async () => {
    await using server = await startMailServer({
      options: {
        authOptional: false,
        allowInsecureAuth: true,
        onAuth: ({ username, password }, _, done) =>
          username === 'shop' && password === 'p@ss' ? done(null, { user: 1 }) : done(new Error('Wrong')),
      },
    });
    const withLogin = (login: string) => ({ url: server.url.replace('smtp://', `smtp://${login}@`) });
    const refused = await send(withLogin('shop:nope')).catch((thrown: unknown) => thrown);
    expect(refused).toMatchObject({ problem: 'broken', message: expect.stringContaining('SMTP_URL') });
    await send(withLogin('shop:p%40ss'));
    expect(server.mails).toHaveLength(1);
  });

  it('refuses a server without TLS when SMTP_REQUIRE_TLS is on', async () => {
    await using server = await startMailServer();
    const sending = send(server, {}, { settings: { SMTP_REQUIRE_TLS: true } });
    await expect(sending).rejects.toHaveProperty('problem', 'broken');
    expect(server.mails).toEqual([]);
  });
});

describe('email.send: what cannot be sent (ASVS 1.3.11)', () => {
  const nowhere = { url: 'smtp://127.0.0.1:1' };

  it.each([
    ['two addresses in one', { to: ['bo@example.com, evil@example.com'] }],
    ['a line break in an address', { to: ['bo@example.com\r\nRCPT TO:<evil@example.com>'] }],
    ['a list in angle brackets', { to: ['Bo <bo@example.com>, Eve <evil@example.com>'] }],
    ['a header that adds recipients', { headers: { Bcc: 'evil@example.com' } }],
    ['a header that a mail service obeys', { headers: { 'X-MC-BccAddress': 'evil@example.com' } }],
    ['a line break in a header', { headers: { 'X-A': 'a\r\nBcc: evil@example.com' } }],
    ['a sender of another domain', { from: 'ceo@bank.example' }],
    ['an unknown template', { text: undefined, template: { name: '../welcome' } }],
    [
      'variables that do not fit',
      { text: undefined, template: { name: 'welcome', variables: { name: 'A' } } },
    ],
    [
      'attachments of more than 25 MiB',
      { attachments: [{ content: Buffer.alloc(26 * 2 ** 20).toString('base64'), filename: 'a' }] },
    ],
  ] satisfies [string, Partial<Input>][])('refuses %s', async (_, input) => {
    const err = await send(nowhere, input).catch((thrown: unknown) => thrown);
    expect(['InvalidInputError', 'ZodError']).toContain(
      err instanceof Error ? (err.name === '$ZodError' ? 'ZodError' : err.name) : err,
    );
  });

  it('takes senders of the domains that are allowed', async () => {
    await using server = await startMailServer();
    const settings = { SMTP_FROM_DOMAINS: ['other.example', 'münchen.example'] };
    await send(server, { from: 'a@other.example' }, { settings });
    await send(server, { from: 'a@München.example' }, { settings });
    await expect(send(server, {}, { settings })).rejects.toThrow(
      'cannot be sent from example.org. Allowed are other.example, xn--mnchen-3ya.example (SMTP_FROM_DOMAINS)',
    );
  });

  it('says what to set when there is no mail server', async () => {
    const sending = runTask({
      definition: task,
      handler,
      input: { to: ['ada@example.com'], subject: 'Hi', text: 'Hello' },
      settings: { SMTP_FROM: 'a@example.org' },
    });
    await expect(sending).rejects.toThrow('Set SMTP_URL (as smtp://user:password@host:587)');
    await expect(sending).rejects.toBeInstanceOf(InvalidInputError);
  });

  it.each([
    ['no recipient', { to: [] }],
    ['51 recipients', { to: Array<string>(51).fill('a@example.com') }],
    [
      'more than 100 together',
      {
        to: Array<string>(50).fill('a@example.com'),
        cc: Array<string>(50).fill('a@example.com'),
        bcc: ['a@example.com'],
      },
    ],
    [
      '21 attachments',
      { attachments: Array.from({ length: 21 }, () => ({ content: 'AA==', filename: 'a' })) },
    ],
    ['a template and a text', { template: { name: 'welcome' } }],
    ['neither template nor text', { text: undefined }],
    ['no subject', { subject: undefined }],
    ['an unsubscribe link without TLS', { unsubscribe: { url: 'http://example.com' } }],
    ['a path as attachment', { attachments: [{ path: '/etc/passwd', filename: 'a' }] }],
    ['a URL as attachment', { attachments: [{ href: 'http://127.0.0.1/', filename: 'a' }] }],
    ['an envelope', { envelope: { to: 'evil@example.com' } }],
  ])('does not accept %s', (_, input) => {
    const parsed = task.input.safeParse({ to: ['ada@example.com'], subject: 'Hi', text: 'Hello', ...input });
    expect(parsed.success).toBe(false);
  });
});
