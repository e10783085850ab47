import { AppError } from '#shared/errors.ts';
import { StoredFileMissingError } from './storage.ts';

/** `ENOENT`, `ENOSPC` and so on; undefined for what is not a system error. */
export function codeOf(err: unknown): string | undefined {
  return err instanceof Error && 'code' in err && typeof err.code === 'string' ? err.code : undefined;
}

/**
 * What a failed system call means to a client: no room (507), or storage that cannot work just now (503). Everything
 * else is a bug and stays what it is.
 */
export function storageError(err: unknown): unknown {
  switch (codeOf(err)) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new AppError('storage-full', 'The storage is full. Try again later, or delete files.', {
        cause: err,
      });
    case 'EIO':
    case 'EROFS':
    case 'EACCES':
    case 'EMFILE':
    case 'ENFILE':
    case 'ENOENT':
      return new AppError('unavailable', 'The storage cannot be used right now.', { cause: err });
    default:
      return err;
  }
}

/** For a call that names the file of `id`: not being there is an answer, not a failure of the storage. */
export function missingOr(err: unknown, id: string): unknown {
  return codeOf(err) === 'ENOENT' ? new StoredFileMissingError(id) : storageError(err);
}
