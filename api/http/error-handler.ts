import type { ErrorRequestHandler } from 'express';
import { toAppError } from '#shared/db/pool.ts';
import { AppError } from '#shared/errors.ts';
import type { Logger } from '#shared/log.ts';
import { sendProblem } from './problem.ts';

/** The last word on every request that failed: our errors as they are, everything else as 500 with its cause in the log. */
export function createErrorHandler(log: Logger): ErrorRequestHandler {
  return (err: unknown, req, res, next) => {
    const known = toKnownError(err);
    const requestId = res.getHeader('X-Request-Id');
    if (known.status >= 500) {
      log.error(
        { requestId, method: req.method, path: req.path, code: known.code, err: known.cause ?? known },
        'request failed',
      );
    }
    // Bytes are on their way already: breaking the connection is the only honest sign left.
    if (res.headersSent) {
      next(err);
      return;
    }
    if (req.complete) sendProblem(req, res, known);
    // What came in one segment is refused before the parser has said that all of it is here, and would lose its connection.
    else setImmediate(() => sendProblem(req, res, known));
  };
}

/** What the client is told of any error: ours as it is, everything else as `internal` with its cause. */
export function toKnownError(err: unknown): AppError {
  const mapped = toAppError(err);
  if (mapped instanceof AppError) return mapped;
  // A malformed %-sequence in the path.
  if (mapped instanceof URIError)
    return new AppError('bad-request', 'The path is not valid percent-encoding.');
  return new AppError(
    'internal',
    'An unexpected error. It was logged under the id in `instance`; trying again may help.',
    { cause: mapped },
  );
}
