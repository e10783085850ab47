/**
 * What a handler throws to say how the job goes on. Anything else that is thrown is retried with backoff
 * until the attempts are used.
 */

/** The input cannot be used, now or later: the job fails at once, without another attempt. */
export class InvalidInputError extends Error {
  override name = 'InvalidInputError';
}

/** Something needed is busy or down: run again in `delayMs` (1 s to 7 days), without using an attempt. */
export class NotNowError extends Error {
  override name = 'NotNowError';
  readonly delayMs: number;

  constructor(message: string, options: { delayMs: number; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.delayMs = options.delayMs;
  }
}

/** Thrown by `ctx.effect` when an earlier run may or may not have done it, and the caller asked not to risk a repeat. */
export class EffectUnknownError extends Error {
  override name = 'EffectUnknownError';
}
