import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import type { Attachment as ComposerAttachment } from 'nodemailer';
import type { TaskContext, z } from '#shared/tasks/define-task.ts';
import type { task } from './task.ts';

type Input = z.output<(typeof task)['input']>;

/** An attachment with its bytes at hand or on disk; never a path or URL for nodemailer to fetch. */
export interface Attachment {
  readonly filename: string;
  readonly contentType: string | undefined;
  readonly contentId: string | undefined;
  readonly sizeBytes: number;
  readonly source: Buffer | { readonly path: string };
}

export function readAttachments(input: Input, ctx: Pick<TaskContext, 'file'>): Attachment[] {
  return input.attachments.map((item): Attachment => {
    const { contentId } = item;
    if (item.fileId === undefined) {
      const source = Buffer.from(item.content ?? '', 'base64');
      const filename = safeFilename(item.filename ?? 'attachment');
      return { filename, contentType: item.contentType, contentId, sizeBytes: source.length, source };
    }
    const file = ctx.file(item.fileId);
    return {
      filename: safeFilename(item.filename ?? file.name),
      contentType: item.contentType ?? file.mediaType,
      contentId,
      sizeBytes: file.sizeBytes,
      source: { path: file.path },
    };
  });
}

/** Files are opened when their turn comes, so a message that is never sent opens none. */
export function toComposerAttachment(attachment: Attachment): ComposerAttachment {
  const { filename, contentType, contentId, source } = attachment;
  return {
    filename,
    content: Buffer.isBuffer(source) ? source : Readable.from(readLazily(source.path)),
    ...(contentType !== undefined && { contentType }),
    ...(contentId !== undefined && { cid: contentId, contentDisposition: 'inline' as const }),
  };
}

async function* readLazily(path: string): AsyncGenerator<Buffer> {
  yield* createReadStream(path);
}

/** A name without a folder or control characters, of at most 255 bytes. */
function safeFilename(name: string): string {
  const base = name.normalize('NFC').replace(/^.*[/\\]/s, '');
  // oxlint-disable-next-line no-control-regex -- Control characters are what it takes out.
  let safe = base.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, '').toWellFormed();
  while (Buffer.byteLength(safe) > 255) safe = safe.slice(0, -1);
  return safe === '' || /^\.+$/.test(safe) ? 'attachment' : safe;
}
