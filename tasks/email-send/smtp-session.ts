/**
 * One connection to a mail server.
 *
 * Nodemailer's own pool sends a message again when the connection closes under it, also when the server may have
 * taken it already. So the connection is used directly: it is known how far a message got, and nothing is repeated
 * behind our back.
 */
import type { Readable } from 'node:stream';
import type { NodemailerError } from 'nodemailer';
import SMTPConnection, { type SMTPConnectionSendInfo } from 'nodemailer/lib/smtp-connection';
import { readRefusals, toDeliveryError, type Refusal } from './delivery-error.ts';
import type { MailServer } from './mail-settings.ts';

export interface Envelope {
  readonly from: string;
  readonly to: readonly string[];
}

export interface Receipt {
  readonly accepted: readonly string[];
  readonly refusals: readonly Refusal[];
  readonly response: string;
}

export interface SmtpSession {
  /**
   * Sends one message. An abort ends it until the message has been handed over; from then on the answer is
   * waited for, because it decides whether the e-mail counts as sent.
   * @throws DeliveryError, or the signal's reason when it was stopped in time; the session is closed then.
   */
  send(envelope: Envelope, message: Readable, signal: AbortSignal): Promise<Receipt>;
  /** Keeps the process alive, or not: an idle connection should not. */
  setIdle(isIdle: boolean): void;
  close(): void;
}

const connectTimeoutMs = 15_000;
/** How long the server may take to answer, also after the message: RFC 5321 §4.5.3.2 would allow ten minutes. */
const answerTimeoutMs = 90_000;

/** @throws DeliveryError, or the signal's reason */
export async function openSmtpSession(server: MailServer, signal: AbortSignal): Promise<SmtpSession> {
  const connection = new SMTPConnection({
    host: server.host,
    port: server.port,
    secure: server.isTls,
    requireTLS: server.isTlsRequired && !server.isTls,
    // Encryption that is not required still helps with a certificate that nobody vouches for, on this machine.
    tls: { rejectUnauthorized: server.isTlsRequired || server.isTls || !isLoopback(server.host) },
    connectionTimeout: connectTimeoutMs,
    greetingTimeout: connectTimeoutMs,
    dnsTimeout: connectTimeoutMs,
    socketTimeout: answerTimeoutMs,
    logger: false,
  });
  // Errors reach whoever waits (see `settle`); one on an idle connection is answered by its end.
  connection.on('error', () => {});
  const { login } = server;
  try {
    await settle(connection, signal, (done) => connection.connect(done));
    if (login !== undefined) {
      const auth = { user: login.user, pass: login.password };
      await settle(connection, signal, (done) => connection.login(auth, done));
    }
  } catch (err) {
    connection.close();
    signal.throwIfAborted();
    throw toDeliveryError(asError(err), false);
  }

  return {
    async send(envelope, message, signal) {
      let isHandedOver = false;
      const stop = new AbortController();
      const stopInTime = () => {
        if (!isHandedOver) stop.abort(signal.reason);
      };
      // Nodemailer begins to read when the server has said that it waits for the message.
      message.once('end', () => {
        isHandedOver = true;
      });
      signal.addEventListener('abort', stopInTime);
      try {
        signal.throwIfAborted();
        const info = await settle<SMTPConnectionSendInfo>(connection, stop.signal, (done) =>
          connection.send({ from: envelope.from, to: [...envelope.to] }, message, done),
        );
        return {
          accepted: info.accepted,
          refusals: readRefusals(info.rejectedErrors),
          response: info.response,
        };
      } catch (err) {
        connection.close();
        message.destroy();
        if (!isHandedOver) signal.throwIfAborted();
        throw toDeliveryError(asError(err), isHandedOver);
      } finally {
        signal.removeEventListener('abort', stopInTime);
      }
    },
    setIdle(isIdle) {
      // oxlint-disable-next-line no-underscore-dangle -- Nodemailer documents it as public.
      const socket = connection._socket;
      if (!socket) return;
      if (isIdle) socket.unref();
      else socket.ref();
    },
    close() {
      connection.quit();
    },
  };
}

/** Waits for what nodemailer reports through a callback, an event, or not at all when the connection just ends. */
function settle<Value = unknown>(
  connection: SMTPConnection,
  signal: AbortSignal,
  start: (done: (err?: Error | null, value?: Value) => void) => void,
): Promise<Value> {
  return new Promise((resolve, reject) => {
    const onEnd = () => finish(() => reject(closedError()));
    const onError = (err: Error) => finish(() => reject(err));
    const onAbort = () => finish(() => reject(asError(signal.reason)));
    const finish = (end: () => void) => {
      connection.off('end', onEnd);
      connection.off('error', onError);
      signal.removeEventListener('abort', onAbort);
      end();
    };
    connection.on('end', onEnd);
    connection.on('error', onError);
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) return onAbort();
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- Without an error nodemailer gives the value.
    return start((err, value) => finish(() => (err ? reject(err) : resolve(value as Value))));
  });
}

function closedError(): NodemailerError {
  return Object.assign(new Error('Connection closed'), { code: 'ECONNECTION', command: 'CONN' });
}

function asError(err: unknown): Error {
  return err instanceof Error ? err : new Error(String(err));
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}
