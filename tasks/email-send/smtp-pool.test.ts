import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { waitFor } from '#test/support/wait-for.ts';
import { startMailServer } from './mail-server.testing.ts';
import { readMailSettings } from './mail-settings.ts';
import { SmtpPool, type SmtpPoolOptions } from './smtp-pool.ts';

const envelope = { from: 'a@example.com', to: ['b@example.com'] };
const compose = () => Readable.from([Buffer.from('Subject: x\r\n\r\nhello\r\n')]);
const { signal } = new AbortController();

function poolFor(url: string, options?: SmtpPoolOptions): SmtpPool {
  return new SmtpPool(readMailSettings({ SMTP_URL: url, SMTP_FROM: 'a@example.com' }).server, options);
}

describe('SmtpPool', () => {
  it('sends over one connection after the other has been used, and closes it when idle', async () => {
    await using server = await startMailServer();
    const pool = poolFor(server.url, { idleMs: 50 });
    await pool.send(envelope, compose, signal);
    await pool.send(envelope, compose, signal);
    expect(server.connections.made).toBe(1);
    await waitFor(() => (server.connections.open === 0 ? true : undefined), {
      what: 'the idle connection to close',
    });
    await pool.send(envelope, compose, signal);
    expect(server.connections.made).toBe(2);
    expect(server.mails).toHaveLength(3);
  });

  it('opens a new connection after a number of e-mails', async () => {
    await using server = await startMailServer();
    const pool = poolFor(server.url, { messagesMax: 2 });
    for (let sent = 0; sent < 5; sent += 1) await pool.send(envelope, compose, signal);
    expect(server.connections.made).toBe(3);
  });

  it('never has more connections than allowed, and sends all the same', async () => {
    let most = 0;
    await using server = await startMailServer({
      onMessage: () => {
        most = Math.max(most, server.connections.open);
        return undefined;
      },
    });
    const pool = poolFor(server.url, { connectionsMax: 2 });
    await Promise.all(Array.from({ length: 10 }, () => pool.send(envelope, compose, signal)));
    expect(server.mails).toHaveLength(10);
    expect(most).toBe(2);
  });

  it('lets the next one send when an e-mail fails or gives up waiting', async () => {
    let refused = 0;
    await using server = await startMailServer({
      onSender: () => ((refused += 1) === 1 ? '550 No' : undefined),
    });
    const pool = poolFor(server.url, { connectionsMax: 1 });
    const abort = new AbortController();
    const failing = pool.send(envelope, compose, signal);
    const waiting = pool.send(envelope, compose, abort.signal);
    const last = pool.send(envelope, compose, signal);
    abort.abort(new Error('cancelled'));
    await expect(waiting).rejects.toHaveProperty('problem', 'aborted');
    await expect(failing).rejects.toHaveProperty('problem', 'refused');
    await last;
    expect(server.mails).toHaveLength(1);
  });

  it('tries a new connection when the pooled one turns out to be dead, before the message has begun', async () => {
    let senders = 0;
    await using server = await startMailServer({
      onSender: () => {
        senders += 1;
        if (senders === 2) server.cutConnections();
        return undefined;
      },
    });
    const pool = poolFor(server.url);
    await pool.send(envelope, compose, signal);
    await pool.send(envelope, compose, signal);
    expect(server.mails).toHaveLength(2);
    expect(server.connections.made).toBe(2);
  });

  it('does not try again when the connection dies after the message has gone', async () => {
    let messages = 0;
    await using server = await startMailServer({
      onMessage: () => ((messages += 1) === 2 ? 'drop' : undefined),
    });
    const pool = poolFor(server.url);
    await pool.send(envelope, compose, signal);
    await expect(pool.send(envelope, compose, signal)).rejects.toHaveProperty('problem', 'unknown');
    expect(messages).toBe(2);
  });

  it('counts a message as not sent when its source fails half-way', async () => {
    await using server = await startMailServer();
    const broken = () =>
      Readable.from(
        (async function* () {
          yield Buffer.from('Subject: x\r\n\r\nhel');
          await Promise.resolve();
          throw new Error('The disk is gone');
        })(),
      );
    const sending = poolFor(server.url).send(envelope, broken, signal);
    await expect(sending).rejects.toMatchObject({
      problem: 'broken',
      message: expect.stringContaining('The disk is gone'),
    });
    expect(server.mails).toEqual([]);
  });
});
