/** A real mail server on 127.0.0.1 whose answers a test decides, and which keeps what it took. */
import type { Socket } from 'node:net';
import { SMTPServer, type SMTPServerOptions } from 'smtp-server';

export interface TestMail {
  readonly from: string;
  readonly to: readonly string[];
  /** As it came over the wire. */
  readonly raw: string;
  /** Header fields, unfolded, by lower-case name. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface Answers {
  /** Replies to refuse with, as `550 5.1.1 No such user`; nothing to accept. */
  readonly onSender?: () => string | undefined;
  readonly onAddress?: (address: string) => string | undefined;
  /** Called when the whole message has come. `drop` cuts the connection without a reply. */
  readonly onMessage?: (mail: TestMail) => string | undefined;
  readonly options?: SMTPServerOptions;
}

export interface TestMailServer extends AsyncDisposable {
  readonly url: string;
  readonly mails: readonly TestMail[];
  /** Connections that were made since the start, and those that are open. */
  readonly connections: { readonly made: number; readonly open: number };
  cutConnections(): void;
}

export async function startMailServer(answers: Answers = {}): Promise<TestMailServer> {
  const mails: TestMail[] = [];
  const sockets = new Set<Socket>();
  let made = 0;
  const cutConnections = () => sockets.forEach((socket) => socket.destroy());
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    logger: false,
    onMailFrom: (_, __, done) => done(toReply(answers.onSender?.())),
    onRcptTo: ({ address }, _, done) => done(toReply(answers.onAddress?.(address))),
    onData(stream, session, done) {
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', () => {
        const { mailFrom, rcptTo } = session.envelope;
        const mail = readMail(Buffer.concat(chunks).toString(), {
          from: mailFrom === false ? '' : mailFrom.address,
          to: rcptTo.map(({ address }) => address),
        });
        const answer = answers.onMessage?.(mail);
        if (answer === 'drop') return cutConnections();
        if (answer === undefined) mails.push(mail);
        return done(toReply(answer));
      });
    },
    ...answers.options,
  });
  server.on('error', () => {});
  server.server.on('connection', (socket) => {
    made += 1;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.server.address();
  if (address === null || typeof address === 'string') throw new Error('The mail server has no port.');
  return {
    url: `smtp://127.0.0.1:${address.port}`,
    mails,
    get connections() {
      return { made, open: sockets.size };
    },
    cutConnections,
    async [Symbol.asyncDispose]() {
      cutConnections();
      await new Promise<void>((resolve) => {
        server.close(resolve);
      });
    },
  };
}

function readMail(raw: string, envelope: { from: string; to: string[] }): TestMail {
  const [head = ''] = raw.split('\r\n\r\n', 1);
  const lines = head.replace(/\r\n[ \t]+/g, ' ').split('\r\n');
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return { ...envelope, raw, headers };
}

function toReply(reply: string | undefined): Error | null {
  if (reply === undefined) return null;
  return Object.assign(new Error(reply.slice(4)), { responseCode: Number(reply.slice(0, 3)) });
}
