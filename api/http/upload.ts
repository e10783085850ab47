/**
 * The way of bytes from a request into storage, for a body that is one file and for forms.
 *
 * take a slot of the tenant → look at headers and disk before reading anything → pace the body → storage.put under a
 * new id → check what the client announced. On any failure: stored bytes are deleted, streams closed, the slot is given back, and the
 * request stays readable so that the client gets its answer. The rows are the caller's: bytes without one are swept
 * (`Storage.list`) should the process die in between.
 */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import type { Config } from '#shared/config.ts';
import { AppError } from '#shared/errors.ts';
import { uuidv7 } from '#shared/ids.ts';
import { orphanAgeMs, type Storage } from '#shared/storage/storage.ts';
import { readDigests } from './digest.ts';
import { cleanFileName, cleanMediaType, parseContentDisposition } from './file-name.ts';
import { readMultipart, type Form, type MultipartLimits } from './multipart.ts';
import { paceBody, type PaceLimits } from './upload-pace.ts';
import { readRestOfRefused } from './upload-refusal.ts';
import type { Quota } from './quota.ts';
import { createRoomCheck } from './upload-room.ts';
import { createUploadSlots } from './upload-slots.ts';

export interface StoredUpload {
  readonly id: string;
  /** Clean (file-name.ts). */
  readonly name: string;
  /** As declared. The bytes may be something else. */
  readonly mediaType: string;
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

export interface Uploads {
  /**
   * Stores a request whose body is one file. Name and type come from `Content-Disposition` and `Content-Type`;
   * `Repr-Digest` and `Content-Digest` are checked.
   * @throws AppError `too-many-uploads`, `storage-full`, `quota-full`, `unavailable`, `content-too-large`, `unsupported-media-type`,
   *   `bad-request`, `digest-mismatch`, `upload-incomplete`, `request-timeout`.
   */
  receiveFile(req: IncomingMessage, options: { tenantId: string }): Promise<StoredUpload>;
  /**
   * Reads a multipart form and stores its files. Digests in the headers speak of the form, not of a file, and are not
   * looked at.
   * @throws AppError as `receiveFile`, and `invalid-multipart`.
   */
  receiveForm(req: IncomingMessage, options: { tenantId: string }): Promise<Form<StoredUpload>>;
  /** Counts a body that is read in another way as an upload. @returns gives the slot back. @throws AppError `too-many-uploads`. */
  takeSlot(tenantId: string): () => void;
  /** Deletes the bytes of uploads that get no row. Never rejects: what cannot be deleted is left to the sweep. */
  discard(files: readonly Pick<StoredUpload, 'id'>[]): Promise<void>;
}

export interface UploadLimits extends PaceLimits, MultipartLimits {
  readonly fileBytesMax: number;
  readonly perTenantMax: number;
  readonly diskUsedMax: number;
  /** From the first file of a form that is stored to the end of the form, in ms. */
  readonly formMs: number;
}

/** Parts besides files, in one form: `task`, `input`, `options`, and room for what will come. */
const extraPartsMax = 10;

export function uploadLimits(config: Config): UploadLimits {
  return {
    fileBytesMax: config.WINDLASS_FILE_BYTES_MAX,
    filesMax: config.WINDLASS_FILES_PER_REQUEST_MAX,
    partsMax: config.WINDLASS_FILES_PER_REQUEST_MAX + extraPartsMax,
    fieldsMax: 100,
    fieldBytesMax: config.WINDLASS_JSON_BYTES_MAX,
    perTenantMax: config.WINDLASS_UPLOADS_PER_TENANT_MAX,
    diskUsedMax: config.WINDLASS_DISK_USED_MAX,
    idleMs: config.WINDLASS_UPLOAD_IDLE_MS,
    rateMin: config.WINDLASS_UPLOAD_RATE_MIN,
    // A slow line may take any time for one file, but in a form the first one waits for its row until the last one is here.
    formMs: orphanAgeMs / 2,
  };
}

/** The row of an upload is the caller's, and committed a moment after it is stored; until then its bytes count here. */
const rowMs = 2_000;

export function createUploads(options: { storage: Storage; quota: Quota; limits: UploadLimits }): Uploads {
  const { storage, quota, limits } = options;
  const slots = createUploadSlots(limits.perTenantMax);
  const checkRoom = createRoomCheck({ storage, usedShareMax: limits.diskUsedMax });

  async function store(
    source: Readable,
    fileName: string | undefined,
    mediaType: string | undefined,
  ): Promise<StoredUpload> {
    const id = uuidv7();
    const stored = await storage.put(id, source, { sizeBytesMax: limits.fileBytesMax });
    return { id, name: cleanFileName(fileName ?? ''), mediaType: cleanMediaType(mediaType), ...stored };
  }

  async function discard(files: readonly Pick<StoredUpload, 'id'>[]): Promise<void> {
    await Promise.allSettled(files.map((file) => storage.delete(file.id)));
  }

  async function receiveFile(req: IncomingMessage): Promise<StoredUpload> {
    checkEncoding(req);
    checkDeclaredSize(req, limits.fileBytesMax);
    const digests = readDigests(req.headers);
    await checkRoom();
    const sha512 = digests.sha512 && createHash('sha512');
    const body = paceBody(req, limits, (chunk) => void sha512?.update(chunk));
    const disposition = parseContentDisposition(req.headers['content-disposition'] ?? '');
    const stored = await store(body, disposition?.fileName, req.headers['content-type']);
    try {
      if (digests.sha256 && digests.sha256.toString('hex') !== stored.sha256) throw mismatch('sha-256');
      if (digests.sha512 && sha512 && !sha512.digest().equals(digests.sha512)) throw mismatch('sha-512');
      return stored;
    } catch (err) {
      await discard([stored]);
      throw err;
    }
  }

  async function receiveForm(req: IncomingMessage): Promise<Form<StoredUpload>> {
    checkEncoding(req);
    await checkRoom();
    const stored: StoredUpload[] = [];
    const body = paceBody(req, limits);
    let timer: NodeJS.Timeout | undefined;
    try {
      return await readMultipart(body, {
        contentType: req.headers['content-type'],
        limits,
        onFile: async ({ stream, fileName, mediaType }) => {
          const file = await store(stream, fileName, mediaType);
          stored.push(file);
          timer ??= setTimeout(() => body.destroy(tooLong(limits.formMs)), limits.formMs);
          return file;
        },
      });
    } catch (err) {
      await discard(stored);
      throw err;
    } finally {
      clearTimeout(timer);
    }
  }

  /** A body that says its length is refused before it is read; of another one it is known when it has been stored. */
  async function withinQuota<Result>(
    req: IncomingMessage,
    tenantId: string,
    receive: (req: IncomingMessage) => Promise<Result>,
    filesOf: (result: Result) => readonly StoredUpload[],
  ): Promise<Result> {
    const declared = Number(req.headers['content-length'] ?? 0);
    const releases = [await quota.take(tenantId, Math.max(1, declared))];
    const releaseAll = () => {
      for (const release of releases) release();
    };
    try {
      const result = await receive(req);
      if (declared === 0) {
        const files = filesOf(result);
        const size = files.reduce((sum, file) => sum + file.sizeBytes, 0);
        try {
          releases.push(await quota.take(tenantId, size));
        } catch (err) {
          await discard(files);
          throw err;
        }
      }
      setTimeout(releaseAll, rowMs).unref();
      return result;
    } catch (err) {
      releaseAll();
      throw err;
    }
  }

  /** What every upload has around it. */
  function guarded<Result>(receive: (req: IncomingMessage, tenantId: string) => Promise<Result>) {
    return async (req: IncomingMessage, { tenantId }: { tenantId: string }): Promise<Result> => {
      let release = (): void => {};
      try {
        release = slots.take(tenantId);
        return await receive(req, tenantId);
      } catch (err) {
        readRestOfRefused(req);
        throw err;
      } finally {
        release();
      }
    };
  }

  return {
    receiveFile: guarded((req, tenantId) => withinQuota(req, tenantId, receiveFile, (file) => [file])),
    receiveForm: guarded((req, tenantId) => withinQuota(req, tenantId, receiveForm, (form) => form.files)),
    takeSlot: (tenantId) => slots.take(tenantId),
    discard,
  };
}

/** A stored file is what will be given out again; nobody would know that it has to be unpacked first. */
export function checkEncoding(req: IncomingMessage): void {
  const encoding = req.headers['content-encoding'];
  if (encoding === undefined || encoding.trim().toLowerCase() === 'identity') return;
  throw new AppError(
    'unsupported-media-type',
    'Uploads take no Content-Encoding. Send the bytes of the file as they are.',
  );
}

/** Refuses at once what would be refused after gigabytes. That the body has its declared length, Node's parser sees to. */
function checkDeclaredSize(req: IncomingMessage, sizeBytesMax: number): void {
  if (Number(req.headers['content-length'] ?? 0) <= sizeBytesMax) return;
  throw new AppError(
    'content-too-large',
    `The file is larger than ${sizeBytesMax} bytes (WINDLASS_FILE_BYTES_MAX).`,
  );
}

function mismatch(algorithm: string): AppError {
  return new AppError(
    'digest-mismatch',
    `The bytes received do not have the ${algorithm} digest of the header.`,
  );
}

function tooLong(formMs: number): AppError {
  return new AppError(
    'request-timeout',
    `The form was not complete ${formMs} ms after its first file. Upload large files one by one (POST /v1/files).`,
  );
}
