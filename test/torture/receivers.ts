/** What is outside our walls, for real: an HTTP server and a mail server that count what reaches them. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { callbackify } from 'node:util';
import { SMTPServer } from 'smtp-server';

export interface Receivers {
  readonly postUrl: string;
  readonly smtpUrl: string;
  /** How often each job id was posted. */
  readonly posts: ReadonlyMap<string, number>;
  /** How often an e-mail with each subject was taken, and under which message ids. */
  readonly mails: ReadonlyMap<string, { readonly count: number; readonly messageIds: ReadonlySet<string> }>;
  close(): Promise<void>;
}

export async function startReceivers(): Promise<Receivers> {
  const posts = new Map<string, number>();
  const mails = new Map<string, { count: number; messageIds: Set<string> }>();
  const http = createServer((req, res) => {
    void text(req).then(
      (id) => {
        posts.set(id, (posts.get(id) ?? 0) + 1);
        res.writeHead(204).end();
      },
      () => {
        // Broken off in the middle: nothing was received.
      },
    );
  });
  const take = async (stream: Readable) => {
    const mail = await text(stream);
    const subject = headerOf(mail, 'Subject');
    const known = mails.get(subject) ?? { count: 0, messageIds: new Set<string>() };
    known.count += 1;
    known.messageIds.add(headerOf(mail, 'Message-ID'));
    mails.set(subject, known);
  };
  const smtp = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    closeTimeout: 1_000,
    onData: (stream, _session, done) => callbackify(take)(stream, done),
  });
  smtp.on('error', () => undefined);
  http.listen(0, '127.0.0.1');
  const smtpServer = smtp.listen(0, '127.0.0.1');
  await Promise.all([once(http, 'listening'), once(smtpServer, 'listening')]);
  return {
    postUrl: `http://127.0.0.1:${portOf(http)}/`,
    smtpUrl: `smtp://127.0.0.1:${portOf(smtpServer)}`,
    posts,
    mails,
    async close() {
      http.closeAllConnections();
      await Promise.all([
        new Promise<void>((resolve) => http.close(() => resolve())),
        new Promise<void>((resolve) => smtp.close(() => resolve())),
      ]);
    },
  };
}

function portOf(server: { address(): unknown }): number {
  return (server.address() as { port: number }).port;
}

function headerOf(mail: string, name: string): string {
  return new RegExp(`^${name}: (.*)$`, 'im').exec(mail)?.[1]?.trim() ?? '';
}
