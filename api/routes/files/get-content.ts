import { z } from 'zod';
import { defineRoute } from '../../http/define-route.ts';
import { serveFile } from '../../http/serve-file.ts';
import { fileParams, loadFile } from './get-file.ts';

export const getContent = defineRoute({
  method: 'get',
  path: '/v1/files/:id/content',
  scope: 'read',
  tag: 'Files',
  summary: 'The bytes of a file',
  description:
    'GET and HEAD, with ranges and conditional requests (RFC 9110). Sent as an attachment, so that a browser never runs what was uploaded.',
  params: fileParams,
  query: z.strictObject({
    disposition: z
      .enum(['attachment', 'inline'])
      .default('attachment')
      .describe('`inline` is granted to images and plain text.'),
  }),
  headers: {
    Range: '`bytes=0-1023`: one range.',
    'If-None-Match': 'An ETag from before: 304.',
    'If-Range': 'With Range: the whole file when it is another one by now.',
  },
  responses: {
    200: {
      description: 'All bytes.',
      contentType: 'application/octet-stream',
      headers: { ETag: 'The SHA-256.', 'Repr-Digest': 'RFC 9530.' },
    },
    206: {
      description: 'The bytes of the range.',
      contentType: 'application/octet-stream',
      headers: { 'Content-Range': 'Which they are.' },
    },
    304: { description: 'Nothing has changed.' },
  },
  problems: ['not-found', 'precondition-failed', 'range-not-satisfiable'],
  async handle({ deps, identity, params, query, req, res }) {
    const row = await loadFile(deps, identity.tenantId, params.id);
    await serveFile({
      req,
      res,
      file: {
        id: row.id,
        name: row.name,
        mediaType: row.media_type,
        detectedType: row.detected_type,
        sizeBytes: row.size_bytes,
        sha256: row.sha256,
        createdAt: row.created_at,
      },
      storage: deps.storage,
      log: deps.log,
      disposition: query.disposition,
    });
  },
});
