import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTransport, type SendMailOptions } from 'nodemailer';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { startMailCatcher, type MailCatcher } from './mail-catcher.ts';

let dir: string;
let catcher: MailCatcher;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'windlass-mail-'));
  catcher = await startMailCatcher({ dir });
});

afterEach(async () => {
  await catcher.stop();
  rmSync(dir, { recursive: true, force: true });
});

test('an e-mail is kept as it was sent, with everyone it was for', async () => {
  await send({
    to: 'ada@example.com',
    bcc: 'hidden@example.com',
    subject: 'Hello',
    text: 'A line.\n.\nAnother.',
  });
  const [file = ''] = readdirSync(dir);
  const source = readFileSync(join(dir, file), 'utf8');
  expect(source).toMatch(
    /^Return-Path: <from@example\.com>\r\nDelivered-To: ada@example\.com\r\nDelivered-To: hidden@example\.com\r\n/,
  );
  expect(source).toContain('Subject: Hello\r\n');
  expect(source).toContain('A line.\r\n.\r\nAnother.');
});

test('the pages show texts decoded, and names of attachments', async () => {
  const text =
    'Grüße aus Zürich, und eine Zeile, die lang genug ist, um umgebrochen zu werden: 0123456789 0123456789.';
  await send({
    to: 'Zoë <zoe@example.com>',
    subject: 'Grüße, eine sehr lange Betreffzeile mit Umlauten äöü, die in mehrere Wörter zerlegt wird',
    text,
    html: `<p>${text}</p>`,
    attachments: [{ filename: 'zahlen.csv.gz', content: Buffer.alloc(100), contentType: 'application/gzip' }],
  });
  const list = await read('/');
  expect(list.body).toContain(
    'Grüße, eine sehr lange Betreffzeile mit Umlauten äöü, die in mehrere Wörter zerlegt wird</a>',
  );
  const [, id = ''] = /href="\/([0-9a-f-]+)"/.exec(list.body) ?? [];
  const mail = await read(`/${id}`);
  expect(mail.body).toContain(`<pre>${text}`);
  expect(mail.body).toContain(`<pre>&#60;p&#62;${text}&#60;/p&#62;`);
  expect(mail.body).toContain('application/gzip, zahlen.csv.gz</h2><p>100 bytes</p>');
  expect((await read(`/${id}.eml`)).body).toBe(readFileSync(join(dir, `${id}.eml`), 'utf8'));
});

test('what a mail says is shown, never obeyed', async () => {
  const hostile = '"><script>alert(1)</script>';
  await send({
    to: 'a@example.com',
    subject: hostile,
    text: hostile,
    attachments: [{ filename: `${hostile}.bin`, content: 'x' }],
  });
  const list = await read('/');
  const [, id = ''] = /href="\/([0-9a-f-]+)"/.exec(list.body) ?? [];
  const mail = await read(`/${id}`);
  for (const { body, headers } of [list, mail]) {
    expect(body).toContain('&#60;script&#62;');
    expect(body).not.toContain('<script');
    expect(headers['content-security-policy']).toMatch(
      /^default-src 'none'; style-src 'sha256-[^']+'; .*sandbox$/,
    );
  }
  expect((await read(`/${id}.eml`)).headers).toMatchObject({
    'content-type': 'text/plain; charset=utf-8',
    'x-content-type-options': 'nosniff',
  });
});

test('only the newest 200 are kept', async () => {
  for (let age = 0; age < 205; age += 1)
    writeFileSync(join(dir, `${uuidv7(Date.now() - 1_000_000 + age)}.eml`), `Subject: ${age}\r\n\r\n`);
  await send({ to: 'a@example.com', subject: 'the newest', text: '' });
  const files = readdirSync(dir).toSorted();
  expect(files).toHaveLength(200);
  expect(readFileSync(join(dir, files[0] ?? ''), 'utf8')).toContain('Subject: 6\r\n');
  expect(readFileSync(join(dir, files.at(-1) ?? ''), 'utf8')).toContain('Subject: the newest');
});

test('a mail over the limit is refused and not kept', async () => {
  const sending = send({
    to: 'a@example.com',
    attachments: [{ filename: 'large', content: Buffer.alloc(30 * 1024 * 1024) }],
  });
  await expect(sending).rejects.toMatchObject({ responseCode: 552 });
  expect(readdirSync(dir)).toEqual([]);
});

test.each([
  ['/nothing', { status: 404 }],
  ['/../../etc/passwd', { status: 404 }],
  [`/${uuidv7()}`, { status: 404 }],
])('GET %s answers 404', async (path, expected) => {
  expect(await read(path)).toMatchObject(expected);
});

test('a page under another name is refused', async () => {
  expect(await read('/', { host: 'rebound.example.com' })).toMatchObject({ status: 403 });
});

test('stopping while a client is connected does not take longer than a moment', async () => {
  const transport = createTransport(catcher.smtpUrl);
  const pooled = createTransport({ url: catcher.smtpUrl, pool: true, maxConnections: 1 });
  await pooled.sendMail({ from: 'from@example.com', to: 'a@example.com', text: 'x' });
  await catcher.stop();
  await expect(transport.verify()).rejects.toThrow('ECONNREFUSED');
  pooled.close();
  catcher = await startMailCatcher({ dir });
});

async function send(mail: SendMailOptions): Promise<void> {
  const transport = createTransport(catcher.smtpUrl);
  await transport.sendMail({ from: 'from@example.com', ...mail });
  transport.close();
}

async function read(path: string, headers: Record<string, string> = {}) {
  return await new Promise<{
    status: number | undefined;
    body: string;
    headers: NodeJS.Dict<string | string[]>;
  }>((resolve, reject) => {
    const url = new URL(catcher.pageUrl);
    // Not fetch(), which would tidy the path up.
    get({ host: url.hostname, port: url.port, path, headers }, (res) => {
      let body = '';
      res.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      res.on('end', () => resolve({ status: res.statusCode, body, headers: res.headers }));
    }).on('error', reject);
  });
}
