import { z } from 'zod';
import type { FileRow } from '#shared/db/files.ts';

/** A stored file as clients see it. */
export const fileSchema = z
  .object({
    id: z.uuid(),
    name: z.string(),
    mediaType: z.string().describe('As it was declared.'),
    detectedType: z
      .string()
      .nullable()
      .describe('As it was found in the bytes; null until a task has looked at them.'),
    size: z.int().describe('Bytes.'),
    sha256: z.string().describe('Lower-case hex.'),
    createdAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().nullable(),
    links: z.object({ self: z.string(), content: z.string() }),
  })
  .meta({ id: 'File' });

export function presentFile(row: FileRow): z.input<typeof fileSchema> {
  return {
    id: row.id,
    name: row.name,
    mediaType: row.media_type,
    detectedType: row.detected_type,
    size: row.size_bytes,
    sha256: row.sha256,
    createdAt: row.created_at.toISOString(),
    expiresAt: row.expires_at?.toISOString() ?? null,
    links: { self: `/v1/files/${row.id}`, content: `/v1/files/${row.id}/content` },
  };
}
