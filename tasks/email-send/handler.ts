import {
  InvalidInputError,
  NotNowError,
  type HandlerOf,
  type InlineTaskContext,
} from '#shared/tasks/define-task.ts';
import { composeMessage, recipientsOf, writeLetter } from './compose-message.ts';
import { DeliveryError } from './delivery-error.ts';
import { readMailSettings } from './mail-settings.ts';
import { getSmtpPool } from './smtp-pool.ts';
import { findSuppressed, suppressDead } from './suppression.ts';
import type { task } from './task.ts';

/** How long to leave a mail server alone that could not be reached. The job loses no attempt by it. */
const serverDownDelayMs = 60_000;

/**
 * What an answer of the mail server means for the job:
 * - taken: done, also when it refused some of the recipients; they are reported.
 * - refused for good (5xx): the job fails; addresses that do not exist are suppressed.
 * - not now (4xx, as greylisting does): tried again with the task's backoff, so that it ends some day.
 * - not reachable: run again in a minute without using an attempt; it is nothing about this e-mail.
 * - unknown: `delivery` decides, through the effect ledger.
 */
export default (async (input, ctx) => {
  const settings = readMailSettings(ctx.settings);
  const letter = await writeLetter(input, ctx, settings);
  const recipients = recipientsOf(letter);
  const suppressed = await findSuppressed(ctx.memory, recipients);
  const open = recipients.filter((address) => !suppressed.has(address));
  if (open.length === 0) {
    throw new InvalidInputError(
      `Every recipient is suppressed, because earlier e-mails to them were refused for good: ${recipients.join(', ')}.`,
    );
  }

  const pool = getSmtpPool(settings.server);
  const receipt = await ctx
    .effect('smtp', { onUnknown: input.delivery === 'at-least-once' ? 'repeat' : 'fail', isNotDone }, () =>
      pool.send(
        { from: letter.from.address, to: open },
        () => composeMessage(letter, suppressed),
        ctx.signal,
      ),
    )
    .catch(async (err: unknown) => {
      if (!(err instanceof DeliveryError)) throw err;
      if (err.problem === 'aborted') throw err.cause;
      await suppressDead(ctx.memory, err.refusals, new Date());
      throw toJobError(err);
    });
  await suppressDead(ctx.memory, receipt.refusals, new Date());
  return {
    messageId: letter.messageId,
    accepted: [...receipt.accepted],
    rejected: receipt.refusals.map(({ address, reason }) => ({ address, reason })),
    suppressed: [...suppressed],
    response: receipt.response,
  };
}) satisfies HandlerOf<typeof task, InlineTaskContext>;

/** Any other error may have come after the e-mail was sent, for example when the ledger could not be written. */
function isNotDone(err: unknown): boolean {
  return err instanceof DeliveryError && err.problem !== 'unknown';
}

function toJobError(err: DeliveryError): Error {
  if (err.problem === 'refused') return new InvalidInputError(err.message, { cause: err });
  if (err.problem === 'unavailable') {
    return new NotNowError(err.message, { delayMs: serverDownDelayMs, cause: err });
  }
  return err;
}
