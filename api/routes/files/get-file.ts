import { z } from 'zod';
import { findFile, type FileRow } from '#shared/db/files.ts';
import { AppError } from '#shared/errors.ts';
import { isUuid } from '#shared/ids.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute } from '../../http/define-route.ts';
import { fileSchema, presentFile } from '../../present-file.ts';

export const fileParams = z.object({ id: z.string() });

export const getFile = defineRoute({
  method: 'get',
  path: '/v1/files/:id',
  scope: 'read',
  tag: 'Files',
  summary: 'What is known of a file',
  params: fileParams,
  responses: { 200: { description: 'The file.', schema: fileSchema } },
  problems: ['not-found'],
  async handle({ deps, identity, params, res }) {
    res.json(presentFile(await loadFile(deps, identity.tenantId, params.id)));
  },
});

/** @throws AppError `not-found`: for files of other tenants as well. */
export async function loadFile(deps: ApiDeps, tenantId: string, id: string): Promise<FileRow> {
  const row = isUuid(id) ? await findFile(deps.db, tenantId, id) : undefined;
  if (row === undefined) throw new AppError('not-found', `There is no file ${id.slice(0, 64)}.`);
  return row;
}
