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
  /** Requests to `postUrl` + `hold?key=…&ms=…`, which are answered after so long: who was there from when to when. */
  readonly holds: readonly Hold[];
  close(): Promise<void>;
}

export interface Hold {
  readonly key: string;
  readonly jobId: string;
  /** In ms of the clock. */
  readonly from: number;
  /** When it was answered, or broken off; undefined while it is there. */
  readonly until: number | undefined;
}

export async function startReceivers(): Promise<Receivers> {
  const posts = new Map<string, number>();
  const mails = new Map<string, { count: number; messageIds: Set<string> }>();
  const holds: { key: string; jobId: string; from: number; until: number | undefined }[] = [];
  const http = createServer((req, res) => {
    void text(req).then(
      (id) => {
        posts.set(id, (posts.get(id) ?? 0) + 1);
        const { pathname, searchParams } = new URL(req.url ?? '/', 'http://receiver');
        if (pathname !== '/hold') {
          res.writeHead(204).end();
          return;
        }
        const hold = { key: searchParams.get('key') ?? '', jobId: id, from: Date.now(), until: undefined };
        const index = holds.push(hold) - 1;
        const answer = setTimeout(
          () => {
            holds[index] = { ...hold, until: Date.now() };
            res.writeHead(204).end();
          },
          Number(searchParams.get('ms')),
        );
        res.once('close', () => {
          clearTimeout(answer);
          if (holds[index]?.until === undefined) holds[index] = { ...hold, until: Date.now() };
        });
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
    holds,
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
