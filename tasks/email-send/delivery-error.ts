/** Why an e-mail was not taken, and what that means for the job. */
import type { NodemailerError } from 'nodemailer';

/**
 * - `unknown`: the whole message had been handed over when the connection died. The server may have it.
 * - `unavailable`: the server could not be reached, or closed down; nothing about this e-mail.
 * - `refused`: for good (5xx) for this sender, these recipients or this content.
 * - `deferred`: for now (4xx): greylisting, a full mailbox, too many e-mails.
 * - `broken`: the login, TLS or the protocol failed: an operator has to look.
 * - `aborted`: we were told to stop, in time.
 * In all but the first, the server certainly has not taken the e-mail.
 */
export type DeliveryProblem = 'unknown' | 'unavailable' | 'refused' | 'deferred' | 'broken' | 'aborted';

export interface Refusal {
  readonly address: string;
  readonly reason: string;
  /** Does the refusal say that the address does not exist, rather than something about us or the moment? */
  readonly isAddressDead: boolean;
}

export class DeliveryError extends Error {
  override name = 'DeliveryError';
  readonly problem: DeliveryProblem;
  readonly refusals: readonly Refusal[];

  constructor(problem: DeliveryProblem, err: NodemailerError) {
    super(describe(problem, err), { cause: err });
    this.problem = problem;
    this.refusals = readRefusals(err.rejectedErrors);
  }
}

/** @param isHandedOver was the message sent to its last byte when the error came? */
export function toDeliveryError(err: NodemailerError, isHandedOver: boolean): DeliveryError {
  return new DeliveryError(classify(err, isHandedOver), err);
}

function classify(err: NodemailerError, isHandedOver: boolean): DeliveryProblem {
  const code = err.responseCode;
  if (isHandedOver && code === undefined) return 'unknown';
  // 421 may answer any command: the server is about to close.
  if (code === 421) return 'unavailable';
  const isAboutMessage = err.command === 'MAIL FROM' || err.command === 'RCPT TO' || err.command === 'DATA';
  if (isAboutMessage && err.code !== 'ETLS') {
    if (code === undefined) return 'refused';
    return code >= 500 ? 'refused' : 'deferred';
  }
  const isConnection = ['ECONNECTION', 'ETIMEDOUT', 'EDNS', 'ESOCKET'].includes(err.code ?? '');
  return isConnection && (code === undefined || code < 500) ? 'unavailable' : 'broken';
}

/** What the server said of single recipients. */
export function readRefusals(errors: readonly NodemailerError[] | undefined): Refusal[] {
  return (errors ?? []).map((err) => ({
    address: err.recipient ?? '',
    reason: (err.response ?? err.message).slice(0, 500),
    isAddressDead: isAddressDead(err),
  }));
}

/**
 * RFC 3463: 5.1.x is about the address and 5.2.1 says that the mailbox is disabled. Other 5xx say that the
 * mailbox is full or that the server does not like us: the address may be as good as ever.
 */
function isAddressDead(err: NodemailerError): boolean {
  if (err.responseCode === undefined || err.responseCode < 500) return false;
  const detail = /^\d{3}[ -]5\.(\d+)\.(\d+)/.exec(err.response ?? '');
  if (detail === null) return [550, 551, 553].includes(err.responseCode);
  return detail[1] === '1' || (detail[1] === '2' && detail[2] === '1');
}

function describe(problem: DeliveryProblem, err: NodemailerError): string {
  const words = err.response ?? err.message;
  switch (problem) {
    case 'unknown':
      return `The connection was lost after the e-mail had been sent and before the mail server confirmed it: ${words}`;
    case 'unavailable':
      return `The mail server is not available: ${words}`;
    case 'refused':
      return `The mail server refused the e-mail: ${words}`;
    case 'deferred':
      return `The mail server does not take the e-mail now: ${words}`;
    case 'broken':
      return `The mail server cannot be used as it is set up (SMTP_URL): ${words}`;
    case 'aborted':
      return `The e-mail was stopped before it was handed over: ${words}`;
  }
}
