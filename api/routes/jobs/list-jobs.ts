import { z } from 'zod';
import { searchJobs } from '#shared/db/search-jobs.ts';
import { isUuid } from '#shared/ids.ts';
import { decodeCursor, encodeCursor, invalidCursor } from '../../cursor.ts';
import { defineRoute } from '../../http/define-route.ts';
import { jobSummarySchema, presentJobSummary } from '../../present-job-summary.ts';
import { parseSearch, searchLengthMax } from '../../search-query.ts';

export const listJobs = defineRoute({
  method: 'get',
  path: '/v1/jobs',
  scope: 'read',
  tag: 'Jobs',
  summary: 'Search jobs',
  description:
    'Newest first. `q` holds terms that all have to fit: `state:failed,cancelled` `task:image.*` `queue:image` `tag:invoice-7` `id:…` `created:<1h` (in the last hour) `created:>1h` (before that) `created:2026-01-31` `created:<2026-01-31T12:00:00Z` `duration:>30s`, and words or "quoted text" that stand in the error message or the input. `-` before a term negates it, `,` separates alternatives. A long search answers with what it has found so far, perhaps nothing, and a `nextCursor` to go on with. Jobs in lists lack `input`, `result`, `files` and `attempts`.',
  query: z.strictObject({
    q: z.string().max(searchLengthMax).default('').describe('The search; without it, all jobs.'),
    limit: z.coerce.number().int().min(1).max(100).default(20).describe('Jobs on one page.'),
    cursor: z.string().max(200).optional().describe('`nextCursor` of the previous page, with the same `q`.'),
  }),
  responses: {
    200: {
      description: 'One page.',
      schema: z
        .object({
          data: z.array(jobSummarySchema),
          nextCursor: z.string().nullable().describe('Null on the last page.'),
        })
        .meta({ id: 'JobPage' }),
    },
  },
  problems: ['bad-request', 'invalid-cursor'],
  async handle({ deps, identity, query, res }) {
    const terms = parseSearch(query.q);
    const filter = `jobs ${query.q}`;
    const before = query.cursor === undefined ? undefined : decodeCursor(filter, query.cursor);
    if (before !== undefined && !isUuid(before)) throw invalidCursor();
    const { rows, next } = await searchJobs(deps.db, identity.tenantId, {
      terms,
      limit: query.limit,
      ...(before !== undefined && { before }),
    });
    res.json({
      data: rows.map(presentJobSummary),
      nextCursor: next === undefined ? null : encodeCursor(filter, next),
    });
  },
});
