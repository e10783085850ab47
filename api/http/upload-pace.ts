import type { IncomingMessage } from 'node:http';
import { finished, Transform, type Readable } from 'node:stream';
import { crashPoint } from '#shared/crash-point.ts';
import { AppError } from '#shared/errors.ts';

export interface PaceLimits {
  /** Longest silence (WINDLASS_UPLOAD_IDLE_MS). */
  readonly idleMs: number;
  /** Bytes per second, over 60 s (WINDLASS_UPLOAD_RATE_MIN). */
  readonly rateMin: number;
}

/** Little: what waits unread is not in the cache of the processor any more when it is hashed. */
const bufferBytes = 64 * 1024;
export const checkMs = 1_000;
export const windowMs = 60_000;

/**
 * The body of a request as a stream of its own that fails, instead of waiting for ever, when the client goes away
 * (`upload-incomplete`) or sends too slowly (`request-timeout`). Only time in which we wait for the client counts, not time
 * in which a slow disk makes the client wait. When the stream fails or is destroyed, the request is still open, so that an
 * error can be answered.
 * @param onChunk sees every chunk once, before the reader.
 */
export function paceBody(
  req: IncomingMessage,
  limits: PaceLimits,
  onChunk?: (chunk: Buffer) => void,
): Readable {
  const { idleMs, rateMin } = limits;
  let total = 0;
  let silentMs = 0;
  let window = { bytes: 0, waitedMs: 0 };
  let checkedAt = performance.now();

  const body = new Transform({
    highWaterMark: bufferBytes,
    transform(chunk: Buffer, _encoding, done) {
      total += chunk.length;
      window.bytes += chunk.length;
      silentMs = 0;
      onChunk?.(chunk);
      done(null, chunk);
      crashPoint('upload.middle');
    },
  });

  const check = (): void => {
    const elapsedMs = performance.now() - checkedAt;
    checkedAt += elapsedMs;
    const isReaderBehind = body.readableLength >= bufferBytes;
    if (isReaderBehind) return;
    silentMs += elapsedMs;
    window.waitedMs += elapsedMs;
    if (silentMs >= idleMs) {
      body.destroy(tooSilent(idleMs));
    } else if (window.waitedMs >= windowMs) {
      if (window.bytes / (window.waitedMs / 1_000) < rateMin) {
        body.destroy(tooSlow(rateMin));
      }
      window = { bytes: 0, waitedMs: 0 };
    }
  };
  const timer = setInterval(check, checkMs);
  // The client is done when the last byte is here; what comes after is our time.
  body.once('finish', () => clearInterval(timer));
  body.once('close', () => clearInterval(timer));
  // A failure before the reader listens is not lost: reading a failed stream throws its error.
  body.on('error', () => {});

  finished(req, { writable: false }, (err) => {
    if (err)
      body.destroy(
        new AppError('upload-incomplete', `The connection ended after ${total} bytes of the body.`, {
          cause: err,
        }),
      );
  });
  return req.pipe(body);
}

export function tooSilent(idleMs: number): AppError {
  return new AppError('request-timeout', `Nothing came for ${idleMs} ms (WINDLASS_UPLOAD_IDLE_MS).`);
}

export function tooSlow(rateMin: number): AppError {
  return new AppError(
    'request-timeout',
    `Less than ${rateMin} bytes per second came in a minute (WINDLASS_UPLOAD_RATE_MIN).`,
  );
}
