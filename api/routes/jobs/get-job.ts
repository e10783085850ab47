import { createHash } from 'node:crypto';
import { z } from 'zod';
import { listDependencies } from '#shared/db/dependencies.ts';
import { listFilesOfJob } from '#shared/db/files.ts';
import { findJob, listAttempts, type JobRow } from '#shared/db/jobs.ts';
import { isFinal } from '#shared/domain/job.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute, type RouteContext } from '../../http/define-route.ts';
import { readWaitMs } from '../../http/request-headers.ts';
import { isNotModified } from '../../http/serve-file-preconditions.ts';
import { jobSchema, presentJob, retryAfterSeconds } from '../../present-job.ts';

export const jobParams = z.object({ id: z.string() });
export const waitQuery = z.strictObject({
  wait: z.coerce
    .number()
    .int()
    .min(0)
    .max(300)
    .optional()
    .describe('Seconds to wait for the end of the job before answering; also as `Prefer: wait=30`.'),
});

export const getJob = defineRoute({
  method: 'get',
  path: '/v1/jobs/:id',
  scope: 'read',
  tag: 'Jobs',
  summary: 'What became of a job',
  description:
    'Answers 200 whatever the state. With `wait` the answer comes when the job has ended, or when the time is over.',
  params: jobParams,
  query: waitQuery,
  headers: {
    Prefer: '`wait=30`: as the query parameter.',
    'If-None-Match': 'An ETag from before: 304 when nothing has changed.',
  },
  responses: {
    200: {
      description: 'The job.',
      schema: jobSchema,
      headers: { ETag: 'Changes with the job.', 'Retry-After': 'While it has not ended.' },
    },
    304: { description: 'Nothing has changed.' },
  },
  problems: ['not-found'],
  async handle(ctx) {
    const { deps, identity, req, res } = ctx;
    const row = await waitForJob(ctx);
    const [attempts, files, dependencies] = await Promise.all([
      listAttempts(deps.db, identity.tenantId, row.id),
      listFilesOfJob(deps.db, identity.tenantId, row.id),
      listDependencies(deps.db, identity.tenantId, row.id),
    ]);
    const body = JSON.stringify(presentJob(row, attempts, files, dependencies));
    const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
    res.setHeader('ETag', etag);
    const retryAfter = retryAfterSeconds(row, new Date());
    if (retryAfter !== undefined) res.setHeader('Retry-After', String(retryAfter));
    // Not `req.fresh`: it gives way to `Cache-Control: no-cache`, which fetch adds to every request with a condition.
    if (isNotModified(req.headers, etag)) res.status(304).end();
    else res.type('application/json').send(body);
  },
});

/** @throws AppError `not-found`: for ids of other tenants as well. */
export async function loadJob(deps: ApiDeps, tenantId: string, id: string): Promise<JobRow> {
  const row = isUuid(id) ? await findJob(deps.db, tenantId, id) : undefined;
  if (row === undefined) throw new AppError('not-found', `There is no job ${id.slice(0, 64)}.`);
  return row;
}

/** Loads the job, after waiting for its end as long as the request asks. */
export async function waitForJob(
  ctx: Pick<
    RouteContext<{ id: string }, { wait?: number | undefined }, unknown>,
    'deps' | 'identity' | 'req' | 'res' | 'params' | 'query'
  >,
): Promise<JobRow> {
  const { deps, identity, req, res, params, query } = ctx;
  const waitMs = readWaitMs(req, query.wait, deps.config.WINDLASS_WAIT_MS_MAX);
  const load = () => loadJob(deps, identity.tenantId, params.id);
  if (waitMs === 0) return load();
  // Waiting begins before the first look, so that an end in between is not missed.
  const gone = new AbortController();
  const leave = () => gone.abort();
  res.once('close', leave);
  try {
    const ended = deps.waiter.wait(params.id, waitMs, gone.signal);
    const row = await load();
    if (isFinal(row.state)) return row;
    await ended;
    return await load();
  } finally {
    res.off('close', leave);
    gone.abort();
  }
}
