/**
 * The mail server of `npm start` when no other is configured: takes every e-mail, delivers none, keeps the last ones
 * as .eml files, and shows them on a page of its own. Both listen on 127.0.0.1 only.
 */
import { mkdirSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server } from 'node:net';
import { callbackify } from 'node:util';
import { SMTPServer, type SMTPServerSession } from 'smtp-server';
import { answerMailPage } from './mail-page.ts';
import { keepMail } from './mail-store.ts';

export interface MailCatcher {
  /** For SMTP_URL. */
  readonly smtpUrl: string;
  /** Where to read what was sent. */
  readonly pageUrl: string;
  stop(): Promise<void>;
}

const mailBytesMax = 30 * 1024 * 1024;

/** Starts the catcher; `dir` is made when it is missing. Ports are free ones unless given. */
export async function startMailCatcher(options: {
  dir: string;
  smtpPort?: number;
  pagePort?: number;
}): Promise<MailCatcher> {
  const { dir } = options;
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const smtp = new SMTPServer({
    authOptional: true,
    // Its certificate would be self-signed, and clients that upgrade when they can would refuse it.
    disabledCommands: ['STARTTLS'],
    size: mailBytesMax,
    closeTimeout: 1_000,
    onData: (stream, session, done) => {
      const checkWhole = () => {
        if (stream.sizeExceeded) throw tooLarge();
      };
      callbackify(keepMail)(dir, { source: stream, headers: envelopeHeaders(session), checkWhole }, done);
    },
  });
  smtp.on('error', () => undefined); // A client that hangs up: its mail was not kept, and it knows.
  const page = createServer((req, res) => answerMailPage(dir, { req, res }));
  const smtpPort = await listen(smtp.server, options.smtpPort ?? 0);
  const pagePort = await listen(page, options.pagePort ?? 0);
  return {
    smtpUrl: `smtp://127.0.0.1:${smtpPort}`,
    pageUrl: `http://127.0.0.1:${pagePort}`,
    async stop() {
      page.closeAllConnections();
      await Promise.all([
        new Promise<void>((resolve) => smtp.close(resolve)),
        new Promise<void>((resolve) => page.close(() => resolve())),
      ]);
    },
  };
}

/** Who it was really for, blind copies included: what a mail server notes on delivery (RFC 5321 §4.4, RFC 9228). */
function envelopeHeaders({ envelope }: SMTPServerSession): string[] {
  const from = envelope.mailFrom === false ? '' : envelope.mailFrom.address;
  return [`Return-Path: <${from}>`, ...envelope.rcptTo.map((to) => `Delivered-To: ${to.address}`)];
}

function tooLarge(): Error {
  return Object.assign(new Error(`The message is over ${mailBytesMax} bytes.`), { responseCode: 552 });
}

async function listen(server: Server, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject);
      resolve();
    });
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The system gave no port number.');
  return address.port;
}
