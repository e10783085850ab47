/**
 * Where bytes live, by file id and nothing else: no name, no path, no tenant of a client ever becomes part of a
 * storage key. Every driver must pass storage-conformance.ts.
 *
 * Life of a file's bytes: `put` streams them to a place under a temporary name, hashes them on the
 * way, makes them durable, and only then gives them their final name. A `put` that fails or is killed leaves at
 * most a temporary part, which `sweepParts` deletes. A row in `files` is committed after `put` returned; bytes
 * whose row never came are found by `list` and deleted by the orphan sweep.
 */
import type { Readable } from 'node:stream';

export interface Storage {
  /**
   * Stores all of `source` under `id`, durable when it resolves.
   * @throws AppError `content-too-large` after `sizeBytesMax` bytes, `storage-full` when the disk is,
   *   and whatever `source` fails with. Nothing is left under `id` then.
   */
  put(
    id: string,
    source: Readable,
    options: { sizeBytesMax: number; signal?: AbortSignal },
  ): Promise<{ sizeBytes: number; sha256: string }>;
  /**
   * As `put`, of the file at `path`, which somebody we do not trust may have written, or still be writing.
   * @throws SourceFileError when there is no plain file at `path`.
   */
  putFile(
    id: string,
    path: string,
    options: { sizeBytesMax: number; signal?: AbortSignal },
  ): Promise<{ sizeBytes: number; sha256: string }>;
  /** The bytes from `start` to `end` (both inclusive, like HTTP ranges). @throws StoredFileMissingError */
  read(id: string, range?: { start: number; end: number }): Promise<Readable>;
  /** @throws StoredFileMissingError */
  stat(id: string): Promise<{ sizeBytes: number; modifiedAt: Date }>;
  /** Deletes the bytes; deleting what is not there is fine. */
  delete(id: string): Promise<void>;
  /**
   * Puts the bytes at `path` for reading only (a hard link, or a verified copy). The reader may be another user
   * without access to the storage.
   * @throws StoredFileMissingError; Error when the bytes do not have `sha256`.
   */
  materialize(id: string, path: string, options: { sha256: string }): Promise<void>;
  /** A path that the bytes can be hard-linked from, if there are any; undefined where the driver has no such thing. */
  linkSource(id: string): string | undefined;
  /** Every stored id with the time it was written, in no order, without holding all in memory. */
  list(): AsyncIterable<{ id: string; modifiedAt: Date }>;
  /** Deletes temporary parts that have not been written to for `olderThanMs`; returns how many. */
  sweepParts(olderThanMs: number): Promise<number>;
  /** Is it writable, and how full (0 to 1)? `usedShare` is undefined where the driver cannot know. */
  check(): Promise<{ usedShare: number | undefined }>;
}

/**
 * Stored bytes older than this without a row are deleted by the orphan sweep, in ms. Whoever stores bytes before their row
 * must have committed it well before.
 */
export const orphanAgeMs = 3_600_000;

export class StoredFileMissingError extends Error {
  override name = 'StoredFileMissingError';
  constructor(id: string) {
    super(`No bytes are stored for file ${id}.`);
  }
}

/** `cause` says what is wrong with the file that was to be stored. */
export class SourceFileError extends Error {
  override name = 'SourceFileError';
  constructor(cause: unknown) {
    super('The file to be stored cannot be read.', { cause });
  }
}
