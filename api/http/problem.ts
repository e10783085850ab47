import type { Request, Response } from 'express';
import { z } from 'zod';
import { errorTable, type AppError } from '#shared/errors.ts';
import { baseUrl } from './links.ts';
import { readRestOfRefused } from './upload-refusal.ts';

/**
 * Answers with an `application/problem+json` document (RFC 9457). `type` is absolute and served by this api;
 * `instance` is the id of the request, to find it in the logs. Never a stack.
 */
export function sendProblem(req: Request, res: Response, err: AppError): void {
  const { status } = errorTable[err.code];
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
      ...toProblem(req, err),
      instance: String(res.getHeader('X-Request-Id') ?? ''),
    }),
  );
}

export const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    code: z.string(),
    retryable: z.boolean(),
    errors: z.array(z.object({ pointer: z.string(), detail: z.string() })).optional(),
  })
  .meta({ id: 'ItemProblem', description: 'A problem (RFC 9457) of one item of a request.' });

/** What is wrong, without the request that it happened to. */
export function toProblem(req: Request, err: AppError): z.input<typeof problemSchema> {
  const { title, status, retryable } = errorTable[err.code];
  return {
    type: `${baseUrl(req)}/problems/${err.code}`,
    title,
    status,
    detail: err.message,
    code: err.code,
    retryable,
    ...(err.errors !== undefined && { errors: [...err.errors] }),
  };
}
