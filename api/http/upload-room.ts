import { AppError } from '#shared/errors.ts';
import type { Storage } from '#shared/storage/storage.ts';

/** Uploads come by the hundred; the disk does not fill so fast. */
const maxAgeMs = 1_000;

/**
 * Refuses uploads while the storage is fuller than `usedShareMax` (0 to 1), so that what runs has room to finish. One look at the
 * disk serves all uploads of a second.
 */
export function createRoomCheck(options: { storage: Storage; usedShareMax: number }): () => Promise<void> {
  const { storage, usedShareMax } = options;
  let checkedAt = -Infinity;
  let checked: ReturnType<Storage['check']> | undefined;

  /** @throws AppError `storage-full`; `unavailable` when the storage cannot be written to. */
  return async () => {
    const now = performance.now();
    if (checked === undefined || now - checkedAt >= maxAgeMs) {
      checkedAt = now;
      checked = storage.check();
    }
    const { usedShare } = await checked.catch((err: unknown) => {
      throw new AppError('unavailable', 'The storage cannot be used right now.', { cause: err });
    });
    if (usedShare !== undefined && usedShare >= usedShareMax) {
      const percent = Math.round(usedShareMax * 100);
      throw new AppError(
        'storage-full',
        `The storage is more than ${percent} % full (WINDLASS_DISK_USED_MAX).`,
      );
    }
  };
}
