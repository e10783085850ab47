import type { IncomingMessage } from 'node:http';
import { AppError } from '#shared/errors.ts';
import type { PaceLimits } from './upload-pace.ts';

const checkMs = 1_000;
const windowMs = 60_000;

/**
 * Runs `read`, which reads the small body of `req` to its end, and fails when the client sends too slowly: whoever stops in
 * the middle of a body would hold a connection for ever.
 * @throws AppError `request-timeout`; the rest of the body is left unread then. What `read` fails with.
 */
export async function withinPace(
  req: IncomingMessage,
  limits: PaceLimits,
  read: () => Promise<void>,
): Promise<void> {
  const { idleMs, rateMin } = limits;
  const startedMs = performance.now();
  let heardMs = startedMs;
  let bytes = 0;
  const count = (chunk: Buffer): void => {
    bytes += chunk.length;
    heardMs = performance.now();
  };
  const { promise: tooSlow, reject } = Promise.withResolvers<never>();
  const timer = setInterval(() => {
    const now = performance.now();
    if (now - heardMs >= idleMs) {
      reject(new AppError('request-timeout', `Nothing came for ${idleMs} ms (WINDLASS_UPLOAD_IDLE_MS).`));
    } else if (now - startedMs >= windowMs && bytes / ((now - startedMs) / 1_000) < rateMin) {
      reject(
        new AppError(
          'request-timeout',
          `Less than ${rateMin} bytes per second came in a minute (WINDLASS_UPLOAD_RATE_MIN).`,
        ),
      );
    }
  }, checkMs);
  req.on('data', count);
  try {
    await Promise.race([read(), tooSlow]);
  } finally {
    clearInterval(timer);
    req.off('data', count);
  }
}
