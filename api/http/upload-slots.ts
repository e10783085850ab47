import { AppError } from '#shared/errors.ts';

/** Counts the uploads in progress of each tenant in this process. */
export interface UploadSlots {
  /** Takes a slot; call the answer, once, to give it back. @throws AppError `too-many-uploads`. */
  take(tenantId: string): () => void;
}

export function createUploadSlots(max: number): UploadSlots {
  const counts = new Map<string, number>();
  return {
    take(tenantId) {
      const count = counts.get(tenantId) ?? 0;
      if (count >= max) {
        throw new AppError(
          'too-many-uploads',
          `More than ${max} uploads at once (WINDLASS_UPLOADS_PER_TENANT_MAX).`,
          { retryAfterSeconds: 1 },
        );
      }
      counts.set(tenantId, count + 1);
      return () => {
        const left = (counts.get(tenantId) ?? 1) - 1;
        if (left === 0) counts.delete(tenantId);
        else counts.set(tenantId, left);
      };
    },
  };
}
