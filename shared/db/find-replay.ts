/**
 * What an idempotency key stands for, with its job. A stream that is sent again asks this for every line, so what is asked at
 * the same moment is asked together.
 */
import { createGroupCommit, type GroupCommit } from './group-commit.ts';
import type { IdempotencyRow } from './idempotency.ts';
import { findJobs, type JobRow } from './jobs.ts';
import type { Db } from './pool.ts';

export interface Replay extends IdempotencyRow {
  /** Undefined when it has been deleted, or the key stands for something else. */
  readonly job: JobRow | undefined;
}

export interface KeyOfTenant {
  readonly tenantId: string;
  readonly key: string;
}

/** Resolves to undefined for a key that is not remembered. */
export type FindReplay = GroupCommit<KeyOfTenant, Replay | undefined>;

export function createFindReplay(db: Db): FindReplay {
  return createGroupCommit<KeyOfTenant, Replay | undefined>({
    flightsMax: 2,
    flush: (keys) => find(db, keys),
    // Nothing was written.
    recover: (_key, err) => Promise.reject(err),
  });
}

async function find(db: Db, keys: readonly KeyOfTenant[]): Promise<(Replay | undefined)[]> {
  const { rows } = await db.query<IdempotencyRow & { tenant_id: string; key: string }>({
    name: 'find-replays',
    text: `SELECT k.tenant_id, k.key, encode(k.fingerprint, 'hex') AS fingerprint, k.resource, k.resource_id, k.is_duplicate
           FROM unnest($1::text[], $2::text[]) AS wanted(tenant_id, key)
           JOIN idempotency_keys k ON k.tenant_id = wanted.tenant_id AND k.key = wanted.key`,
    values: [keys.map((item) => item.tenantId), keys.map((item) => item.key)],
  });
  const jobs = await findJobs(
    db,
    rows
      .filter((row) => row.resource === 'job')
      .map((row) => ({ tenantId: row.tenant_id, id: row.resource_id })),
  );
  const jobOf = new Map(jobs.map((job) => [job.id, job]));
  const found = new Map(rows.map((row) => [`${row.tenant_id} ${row.key}`, row]));
  return keys.map(({ tenantId, key }) => {
    const row = found.get(`${tenantId} ${key}`);
    return row === undefined ? undefined : { ...row, job: jobOf.get(row.resource_id) };
  });
}
