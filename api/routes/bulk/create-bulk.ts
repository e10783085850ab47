import { z } from 'zod';
import { readClock } from '#shared/db/clock.ts';
import { searchJobIds, searchJobs } from '#shared/db/search-jobs.ts';
import { isStorable } from '#shared/domain/text.ts';
import { parseSearch, searchLengthMax } from '#shared/search-query.ts';
import { bulkActions, task as bulkTask } from '#tasks/jobs-bulk/task.ts';
import { acceptJob } from '../../accept-job.ts';
import { defineRoute, type RouteContext } from '../../http/define-route.ts';
import { invalidInput } from '../../http/read-json.ts';
import { readIdempotencyKey, readTraceparent } from '../../http/request-headers.ts';
import { jobSummarySchema, presentJobSummary } from '../../present-job-summary.ts';
import { jobSchema } from '../../present-job.ts';
import { toApiTask } from '../../task-catalog.ts';
import { answerAccepted } from '../jobs/create-job.ts';

/** A dry run counts no further, and shows so many. */
const countMax = 10_000;
const sampleMax = 10;

const bulkBody = z
  .strictObject({
    action: z.enum(bulkActions).describe('What to do to each job.'),
    q: z
      .string()
      .max(searchLengthMax)
      .describe('Which jobs: a search as in GET /v1/jobs. `task:*` stands for all.'),
    dryRun: z.boolean().default(false).describe('Only say which jobs are found.'),
    reason: z
      .string()
      .max(1_000)
      .refine(isStorable)
      .optional()
      .describe('Only of a cancel; kept with each job.'),
  })
  .refine((body) => body.reason === undefined || body.action === 'cancel', {
    message: 'Only a cancel takes a reason.',
    path: ['reason'],
  })
  .meta({ examples: [{ action: 'cancel', q: 'state:queued tag:import-7', dryRun: true }] });

const dryRunSchema = z
  .object({
    action: z.enum(bulkActions),
    q: z.string(),
    matched: z.int().describe(`Jobs that are found now, counted up to ${countMax}.`),
    isExact: z
      .boolean()
      .describe('False: there may be more, the count stopped at its limit or after two seconds.'),
    sample: z.array(jobSummarySchema).describe(`The newest of them, up to ${sampleMax}.`),
  })
  .meta({ id: 'BulkDryRun' });

const apiTask = toApiTask(bulkTask);

export const createBulk = defineRoute({
  method: 'post',
  path: '/v1/bulk',
  scope: 'operate',
  tag: 'Jobs',
  summary: 'Do something to all jobs that a search finds',
  description:
    'A job that does it, with progress; its result is `{matched, done, skipped, failed, errors}`. The jobs are those that there are when it is accepted. It can be cancelled like any job; what it has done stays done.',
  headers: {
    'Idempotency-Key': 'Optional. The same key with the same content within 24 h gives the same job.',
    traceparent: 'Optional. W3C trace context, stored with the job.',
  },
  body: bulkBody,
  responses: {
    200: { description: 'Of a dry run: nothing was changed.', schema: dryRunSchema },
    202: {
      description: 'Accepted: the job that does it.',
      schema: jobSchema,
      headers: {
        Location: 'The job.',
        'Retry-After': 'Seconds until asking makes sense.',
        'Idempotency-Replayed': '`true` when the key was used before.',
      },
    },
  },
  problems: ['bad-request', 'invalid-idempotency-key', 'idempotency-mismatch', 'backlog-full'],
  async handle(ctx) {
    const { deps, identity, req, res, body } = ctx;
    const terms = parseSearch(body.q);
    // Left empty by mistake it would be everything.
    if (terms.length === 0)
      throw invalidInput([{ pointer: '/q', detail: 'Say which jobs; `task:*` stands for all.' }]);
    if (body.dryRun) {
      const found = await deps.searchTurns.run(
        identity.tenantId,
        () => !res.closed,
        () => look(ctx, terms),
      );
      if (found !== undefined) res.json({ action: body.action, q: body.q, ...found });
      return;
    }
    const { dryRun: _, ...content } = body;
    const accepted = await acceptJob(
      deps,
      identity,
      {
        task: bulkTask.name,
        input: { ...content, asOf: await readClock(deps.db) },
        options: undefined,
        newFiles: [],
        idempotencyKey: readIdempotencyKey(req),
        traceparent: readTraceparent(req),
        content: { bulk: content },
      },
      apiTask,
    );
    answerAccepted(ctx, accepted);
  },
});

async function look(
  { deps, identity }: Pick<RouteContext<unknown, unknown, unknown>, 'deps' | 'identity'>,
  terms: ReturnType<typeof parseSearch>,
): Promise<Omit<z.input<typeof dryRunSchema>, 'action' | 'q'>> {
  const { tenantId } = identity;
  const { ids, next } = await searchJobIds(deps.db, tenantId, { terms, limit: countMax });
  const newest = ids.slice(0, sampleMax);
  const sample =
    newest.length === 0
      ? []
      : (
          await searchJobs(deps.db, tenantId, {
            terms: [{ type: 'id', isNegated: false, ids: newest }],
            limit: sampleMax,
          })
        ).rows;
  return { matched: ids.length, isExact: next === undefined, sample: sample.map(presentJobSummary) };
}
