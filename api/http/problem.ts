import type { Request, Response } from 'express';
import { errorTable, type AppError } from '#shared/errors.ts';
import { baseUrl } from './links.ts';
import { readRestOfRefused } from './upload-refusal.ts';

/**
 * Answers with an `application/problem+json` document (RFC 9457). `type` is absolute and served by this api;
 * `instance` is the id of the request, to find it in the logs. Never a stack.
 */
export function sendProblem(req: Request, res: Response, err: AppError): void {
  const { title, status, retryable } = errorTable[err.code];
  if (err.retryAfterSeconds !== undefined) res.setHeader('Retry-After', String(err.retryAfterSeconds));
  if (status === 401) res.setHeader('WWW-Authenticate', 'Bearer realm="windlass"');
  if (!req.complete) {
    // The rest of a body that we refused may be large; the connection is not worth reading it.
    res.setHeader('Connection', 'close');
    readRestOfRefused(req);
  }
  res.status(status).type('application/problem+json');
  res.send(
    JSON.stringify({
      type: `${baseUrl(req)}/problems/${err.code}`,
      title,
      status,
      detail: err.message,
      instance: String(res.getHeader('X-Request-Id') ?? ''),
      code: err.code,
      retryable,
      ...(err.errors !== undefined && { errors: err.errors }),
    }),
  );
}
