import { z } from 'zod';
import { searchJobs } from '#shared/db/search-jobs.ts';
import { isUuid } from '#shared/ids.ts';
import { decodeCursor, encodeCursor, invalidCursor } from '../../cursor.ts';
import { defineRoute } from '../../http/define-route.ts';
import { jobSummarySchema, presentJobSummary } from '../../present-job-summary.ts';
import { parseSearch, searchLengthMax } from '#shared/search-query.ts';

export const listJobs = defineRoute({
  method: 'get',
  path: '/v1/jobs',
  scope: 'read',
  tag: 'Jobs',
  summary: 'Search jobs',
  description: `Newest first. \`q\` holds terms, separated by spaces, that all have to fit:
- \`state:failed\`, \`queue:image\`, \`tag:invoice-7\`, \`schedule:nightly\`, \`workflow:…\`, \`items:…\`, \`id:…\`, \`batch:…\`
- \`task:image.resize\`, or \`task:image.*\` for all that begin so
- \`created:<1h\` in the last hour, \`created:>1h\` before that (units ms, s, m, h, d, w); \`created:2026-01-31\` on that day in UTC, \`created:>=2026-01-31\`, \`created:<2026-01-31T12:00:00Z\`
- \`duration:>30s\`: how long the last attempt took, or has been taking
- \`timeout\` or \`"connection reset"\`: stands in the error message or in the input, in upper or lower case
- \`-\` before a term negates it, \`,\` separates alternatives: \`-state:succeeded,cancelled\`
A long search answers with what it has found so far, perhaps nothing, and a \`nextCursor\` to go on with. Jobs in lists lack \`input\`, \`result\`, \`files\` and \`attempts\`.`,
  query: z.strictObject({
    q: z
      .string()
      .max(searchLengthMax)
      .default('')
      .meta({ description: 'The search; without it, all jobs.', examples: ['state:failed task:image.*'] }),
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
    const search = () =>
      searchJobs(deps.db, identity.tenantId, {
        terms,
        limit: query.limit,
        ...(before !== undefined && { before }),
      });
    // Without terms it reads one page.
    const found =
      terms.length === 0
        ? await search()
        : await deps.searchTurns.run(identity.tenantId, () => !res.closed, search);
    if (found === undefined) return;
    const { rows, next } = found;
    res.json({
      data: rows.map(presentJobSummary),
      nextCursor: next === undefined ? null : encodeCursor(filter, next),
    });
  },
});
