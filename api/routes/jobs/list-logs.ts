import { z } from 'zod';
import { listLogs as listLines } from '#shared/db/job-logs.ts';
import { decodeCursor, encodeCursor, invalidCursor } from '../../cursor.ts';
import { defineRoute } from '../../http/define-route.ts';
import { jobParams, loadJob } from './get-job.ts';

const logLine = z
  .object({
    attempt: z.int().describe('Number of the attempt that wrote it, as in `attempts` of the job.'),
    line: z.int().describe('Number of the line within its attempt, from 0.'),
    at: z.iso.datetime(),
    message: z.string(),
  })
  .meta({ id: 'LogLine' });

export const listLogs = defineRoute({
  method: 'get',
  path: '/v1/jobs/:id/logs',
  scope: 'read',
  tag: 'Jobs',
  summary: 'What the handler logged',
  description:
    'Oldest first, over all attempts. Lines of a running job arrive about half a second after they were written.',
  params: jobParams,
  query: z.strictObject({
    limit: z.coerce.number().int().min(1).max(1_000).default(100).describe('Lines on one page.'),
    cursor: z.string().max(200).optional().describe('`nextCursor` of the previous page.'),
  }),
  responses: {
    200: {
      description: 'One page.',
      schema: z
        .object({
          data: z.array(logLine),
          nextCursor: z.string().nullable().describe('Null on the last page.'),
        })
        .meta({ id: 'LogPage' }),
    },
  },
  problems: ['not-found', 'bad-request', 'invalid-cursor'],
  async handle({ deps, identity, params, query, res }) {
    const job = await loadJob(deps, identity.tenantId, params.id);
    const filter = `logs ${job.id}`;
    const after = query.cursor === undefined ? undefined : readPosition(decodeCursor(filter, query.cursor));
    // One more than asked for tells whether there is another page.
    const rows = await listLines(deps.db, identity.tenantId, job.id, {
      limit: query.limit + 1,
      ...(after !== undefined && { after }),
    });
    const page = rows.slice(0, query.limit);
    const last = rows.length > page.length ? page.at(-1) : undefined;
    res.json({
      data: page.map(({ attempt, line, at, message }) => ({ attempt, line, at: at.toISOString(), message })),
      nextCursor: last === undefined ? null : encodeCursor(filter, `${last.fence}.${last.line}`),
    });
  },
});

function readPosition(text: string): { fence: number; line: number } {
  const match = /^(\d{1,15})\.(\d{1,9})$/.exec(text);
  if (match === null) throw invalidCursor();
  return { fence: Number(match[1]), line: Number(match[2]) };
}
