import type { Config } from '#shared/config.ts';
import type { Db } from '#shared/db/pool.ts';
import { countBytesOfTenant, countWaitingOfTenant } from '#shared/db/tenant-usage.ts';
import { AppError } from '#shared/errors.ts';
import { createQuota, type Quota } from './quota.ts';

export interface TenantQuotas {
  /** @throws AppError `too-many-waiting`. */
  readonly waiting: Quota;
  /** @throws AppError `quota-full`. */
  readonly bytes: Quota;
}

export function createTenantQuotas(options: {
  db: Db;
  limits: Pick<Config, 'WINDLASS_WAITING_PER_TENANT_MAX' | 'WINDLASS_BYTES_PER_TENANT_MAX'>;
}): TenantQuotas {
  const { db, limits } = options;
  const waitingMax = limits.WINDLASS_WAITING_PER_TENANT_MAX;
  const bytesMax = limits.WINDLASS_BYTES_PER_TENANT_MAX;
  return {
    waiting: createQuota({
      max: waitingMax,
      count: (tenantId) => countWaitingOfTenant(db, tenantId, waitingMax),
      refuse: () =>
        new AppError(
          'too-many-waiting',
          `This tenant may have ${waitingMax} jobs waiting (WINDLASS_WAITING_PER_TENANT_MAX). Wait until some have run, or cancel some.`,
          { retryAfterSeconds: 5 },
        ),
    }),
    bytes: createQuota({
      max: bytesMax,
      count: (tenantId) => countBytesOfTenant(db, tenantId),
      refuse: () =>
        new AppError(
          'quota-full',
          `This tenant may store ${bytesMax} bytes (WINDLASS_BYTES_PER_TENANT_MAX). Delete files, or wait until some expire.`,
          { retryAfterSeconds: 60 },
        ),
    }),
  };
}
