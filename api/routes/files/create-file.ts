import { createHash } from 'node:crypto';
import { findFile, insertFile, type FileRow } from '#shared/db/files.ts';
import { findIdempotencyKey } from '#shared/db/idempotency.ts';
import { AmbiguousCommitError, isConnectionLost } from '#shared/db/pool.ts';
import { AppError } from '#shared/errors.ts';
import { z } from 'zod';
import { mismatch } from '../../accept-job.ts';
import type { ApiDeps } from '../../deps.ts';
import { defineRoute, type Identity } from '../../http/define-route.ts';
import { readIdempotencyKey } from '../../http/request-headers.ts';
import type { StoredUpload } from '../../http/upload.ts';
import { fileSchema, presentFile } from '../../present-file.ts';

export const createFile = defineRoute({
  method: 'post',
  path: '/v1/files',
  scope: 'submit',
  tag: 'Files',
  summary: 'Upload a file',
  description:
    'The bytes as the body, with `Content-Type` and a file name in `Content-Disposition`; or multipart/form-data with one part `file`. Answered when they are durable.',
  headers: {
    'Content-Disposition': 'For a raw body: `attachment; filename="photo.jpg"`.',
    'Repr-Digest': 'Optional, RFC 9530: `sha-256=:…:`. The upload is refused when the bytes differ.',
    'Idempotency-Key': 'Optional.',
  },
  streams: {
    '*/*': { description: 'The bytes.' },
    'multipart/form-data': {
      description: 'One part named `file`.',
      schema: z.object({ file: z.string().meta({ format: 'binary' }) }),
    },
  },
  responses: { 201: { description: 'Stored.', schema: fileSchema, headers: { Location: 'The file.' } } },
  problems: [
    'invalid-multipart',
    'upload-incomplete',
    'digest-mismatch',
    'request-timeout',
    'invalid-idempotency-key',
    'idempotency-mismatch',
    'content-too-large',
    'unsupported-media-type',
    'invalid-input',
    'too-many-uploads',
    'storage-full',
    'quota-full',
  ],
  async handle({ deps, identity, req, res }) {
    const key = readIdempotencyKey(req);
    const upload = await receive(deps, identity, req);
    const { file, isReplayed } = await commit(deps, identity, upload, key);
    if (isReplayed) res.setHeader('Idempotency-Replayed', 'true');
    res.setHeader('Location', `/v1/files/${file.id}`);
    res.status(201).json(presentFile(file));
  },
});

async function receive(
  deps: ApiDeps,
  identity: Identity,
  req: Parameters<ApiDeps['uploads']['receiveFile']>[0],
): Promise<StoredUpload> {
  const { tenantId } = identity;
  if (!/^multipart\/form-data\b/i.test(req.headers['content-type'] ?? ''))
    return deps.uploads.receiveFile(req, { tenantId });
  const form = await deps.uploads.receiveForm(req, { tenantId });
  const [file, ...others] = form.files;
  if (file !== undefined && others.length === 0 && form.fields.size === 0) return file;
  await deps.uploads.discard(form.files);
  throw new AppError(
    'invalid-input',
    `The form must have exactly one part \`file\` and nothing else; it has ${form.files.length} and ${form.fields.size} other parts.`,
  );
}

async function commit(
  deps: ApiDeps,
  identity: Identity,
  upload: StoredUpload,
  key: string | undefined,
): Promise<{ file: FileRow; isReplayed: boolean }> {
  const fingerprint = createHash('sha256')
    .update(`${upload.name}\n${upload.mediaType}\n${upload.sha256}`)
    .digest('hex');
  try {
    const row = await insertFile(
      deps.db,
      identity.tenantId,
      { ...upload, retentionMs: deps.config.WINDLASS_FILE_RETENTION_MS },
      key === undefined ? null : { key, fingerprint },
    );
    if (row !== undefined) return { file: row, isReplayed: false };
    await deps.uploads.discard([upload]);
    return { file: await findReplayed(deps, identity, key ?? '', fingerprint), isReplayed: true };
  } catch (err) {
    // After a lost connection the row may be there; the sweep deletes the bytes if it is not.
    if (isConnectionLost(err)) throw new AmbiguousCommitError(err);
    await deps.uploads.discard([upload]);
    throw err;
  }
}

async function findReplayed(
  deps: ApiDeps,
  identity: Identity,
  key: string,
  fingerprint: string,
): Promise<FileRow> {
  const known = await findIdempotencyKey(deps.db, identity.tenantId, key);
  if (known === undefined || known.resource !== 'file' || known.fingerprint !== fingerprint)
    throw mismatch(key);
  const row = await findFile(deps.db, identity.tenantId, known.resource_id);
  if (row === undefined)
    throw new AppError('not-found', 'The file that this Idempotency-Key made has been deleted.');
  return row;
}
