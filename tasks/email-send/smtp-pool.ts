import type { Readable } from 'node:stream';
import { DeliveryError } from './delivery-error.ts';
import type { MailServer } from './mail-settings.ts';
import { openSmtpSession, type Envelope, type Receipt, type SmtpSession } from './smtp-session.ts';

export interface SmtpPoolOptions {
  /** Connections at once; further e-mails wait. Many servers allow no more than this from one address. */
  readonly connectionsMax?: number;
  /** An unused connection is closed after this many ms. */
  readonly idleMs?: number;
  /** E-mails over one connection; some servers end it after a hundred. */
  readonly messagesMax?: number;
}

/** Keeps connections to one mail server, because greeting, TLS and login cost more than an e-mail. */
export class SmtpPool {
  readonly #server: MailServer;
  readonly #limits: Required<SmtpPoolOptions>;
  readonly #idle: Pooled[] = [];
  readonly #waiting: (() => void)[] = [];
  #inUse = 0;

  constructor(server: MailServer, options: SmtpPoolOptions = {}) {
    this.#server = server;
    this.#limits = { connectionsMax: 10, idleMs: 10_000, messagesMax: 100, ...options };
  }

  /**
   * Sends one message. A connection from the pool may have been closed by the server without our having seen it:
   * when one fails before the message began, a new connection is tried, once.
   * @param compose makes the message, anew for each try.
   * @throws DeliveryError
   */
  async send(envelope: Envelope, compose: () => Readable, signal: AbortSignal): Promise<Receipt> {
    try {
      await this.#takeTurn(signal);
      try {
        return await this.#sendInTurn(envelope, compose, signal);
      } finally {
        this.#passTurn();
      }
    } catch (err) {
      if (!(err instanceof DeliveryError) && signal.aborted) throw new DeliveryError('aborted', asError(err));
      throw err;
    }
  }

  async #sendInTurn(envelope: Envelope, compose: () => Readable, signal: AbortSignal): Promise<Receipt> {
    const pooled = this.#findIdle();
    if (pooled !== undefined) {
      try {
        return await this.#sendOver(pooled, envelope, compose(), signal);
      } catch (err) {
        if (!(err instanceof DeliveryError && err.problem === 'unavailable')) throw err;
      }
    }
    const session = await openSmtpSession(this.#server, signal);
    return await this.#sendOver({ session, messages: 0 }, envelope, compose(), signal);
  }

  async #sendOver(
    pooled: Pooled,
    envelope: Envelope,
    message: Readable,
    signal: AbortSignal,
  ): Promise<Receipt> {
    const { session } = pooled;
    const receipt = await session.send(envelope, message, signal);
    pooled.messages += 1;
    if (pooled.messages < this.#limits.messagesMax) this.#keep(pooled);
    else session.close();
    return receipt;
  }

  #keep(pooled: Pooled): void {
    pooled.session.setIdle(true);
    pooled.timer = setTimeout(() => this.#drop(pooled), this.#limits.idleMs).unref();
    this.#idle.push(pooled);
  }

  /** The connection used last: the others get their chance to become idle and close. */
  #findIdle(): Pooled | undefined {
    const pooled = this.#idle.pop();
    clearTimeout(pooled?.timer);
    pooled?.session.setIdle(false);
    return pooled;
  }

  #drop(pooled: Pooled): void {
    this.#idle.splice(this.#idle.indexOf(pooled), 1);
    pooled.session.close();
  }

  async #takeTurn(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#inUse < this.#limits.connectionsMax) {
      this.#inUse += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const turn = () => {
        signal.removeEventListener('abort', giveUp);
        resolve();
      };
      const giveUp = () => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(asError(signal.reason));
      };
      signal.addEventListener('abort', giveUp, { once: true });
      this.#waiting.push(turn);
    });
  }

  /** Hands the turn to the next that waits, so that the count stays as it is. */
  #passTurn(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#inUse -= 1;
    else next();
  }
}

interface Pooled {
  readonly session: SmtpSession;
  messages: number;
  timer?: NodeJS.Timeout;
}

const pools = new Map<string, SmtpPool>();

/** The one pool of this process for a server; it holds no connection while nothing is sent. */
export function getSmtpPool(server: MailServer): SmtpPool {
  const key = JSON.stringify(server);
  const pool = pools.get(key) ?? new SmtpPool(server);
  pools.set(key, pool);
  return pool;
}

function asError(err: unknown): Error {
  return err instanceof Error ? err : new Error(String(err));
}
