/**
 * What a worker and its task hosts say to each other: one JSON document per line over a socket pair (fd 3). The
 * host's side runs untrusted bytes, so the worker limits the length of a line, checks the shape of every message,
 * and reads a long result from a file whose size it has looked at.
 */
import { isStorable } from '#shared/domain/text.ts';
import { isUuid } from '#shared/ids.ts';
import type { OutputLimits } from '#shared/tasks/task-context.ts';
import { z } from 'zod';

/** Longest line that a host may send. */
export const lineBytesMax = 64 * 1024;
/** Longer results are not sent over the socket. */
export const documentBytesMax = 32 * 1024;

export interface RunMessage {
  /** `next`: to begin when the last run has ended, unless the worker has taken it back (token-pipe.ts). */
  readonly type: 'run' | 'next';
  /** Known to this run alone: its messages name it, so that what an earlier one left behind cannot speak for it. */
  readonly run: string;
  readonly jobId: string;
  readonly tenantId: string;
  readonly task: string;
  readonly handlerUrl: string | undefined;
  readonly attempt: number;
  readonly input: unknown;
  readonly files: readonly {
    readonly id: string;
    readonly path: string;
    readonly name: string;
    readonly mediaType: string;
    readonly sizeBytes: number;
    readonly sha256: string;
  }[];
  readonly limits: OutputLimits;
  readonly runDir: string;
}

/** From worker to host. `abort` fires the handler's AbortSignal with this reason, `soft-timeout` the softer one. */
export type ToHost =
  | RunMessage
  | { readonly type: 'abort'; readonly run: string; readonly reason: string }
  | { readonly type: 'soft-timeout'; readonly run: string };

const thrownKind = z.enum(['invalid-input', 'not-now', 'bad-output', 'effect-unknown', 'error']);
export type ThrownKind = z.infer<typeof thrownKind>;

/** A file that a handler started with `ctx.output()`. */
export const outputFile = z.object({
  id: z.string().refine(isUuid),
  name: z.string().min(1).max(1_000),
  mediaType: z.string().min(1).max(255).refine(isStorable, 'it has a NUL character or half a surrogate pair'),
});

export type OutputDeclaration = z.infer<typeof outputFile>;

/** What a handler returned. */
export const resultDocument = z.object({ result: z.unknown(), outputs: z.array(outputFile) });
export type ResultDocument = z.infer<typeof resultDocument>;

export const fromHost = z.discriminatedUnion('type', [
  z.object({ type: z.literal('ready') }),
  /** The one that it was given as the next. */
  z.object({ type: z.literal('began'), run: z.string() }),
  z.object({
    type: z.literal('progress'),
    run: z.string(),
    percent: z.number(),
    message: z.string().optional(),
  }),
  z.object({ type: z.literal('log'), run: z.string(), message: z.string() }),
  /** The handler returned. A long document is in `result.json` of the run's directory instead. */
  z.object({
    type: z.literal('returned'),
    run: z.string(),
    document: resultDocument.optional(),
    rssBytes: z.number().min(0),
    hasSpawned: z.boolean(),
  }),
  z.object({
    type: z.literal('threw'),
    run: z.string(),
    kind: thrownKind,
    message: z.string(),
    delayMs: z.number().min(0).optional(),
    rssBytes: z.number().min(0),
    hasSpawned: z.boolean(),
  }),
]);

export type FromHost = z.infer<typeof fromHost>;

/**
 * Splits a byte stream into lines. With a limit, nothing more is read after a line that is longer, and `onOverflow` is called
 * once. Default: none, for the host's side, which trusts the worker and gets inputs of any accepted size in one line.
 */
export function createLineSplitter(
  onLine: (line: string) => void,
  limit?: { readonly bytesMax: number; readonly onOverflow: () => void },
): (chunk: Buffer) => void {
  let parts: Buffer[] = [];
  let sizeBytes = 0;
  let isBroken = false;
  return (chunk) => {
    if (isBroken) return;
    let rest = chunk;
    for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10)) {
      parts.push(rest.subarray(0, end));
      onLine(Buffer.concat(parts).toString('utf8'));
      parts = [];
      sizeBytes = 0;
      rest = rest.subarray(end + 1);
    }
    parts.push(rest);
    sizeBytes += rest.length;
    if (limit !== undefined && sizeBytes > limit.bytesMax) {
      isBroken = true;
      parts = [];
      limit.onOverflow();
    }
  };
}
