/** The ledger of effects outside (an e-mail handed to a server): begun before, finished after, cleared when it did not happen. */
import type { Queryable } from './pool.ts';

export type EffectState =
  | { readonly type: 'begun-now' }
  | { readonly type: 'begun-before' }
  | { readonly type: 'finished'; readonly value: unknown };

export async function beginEffect(
  db: Queryable,
  effect: { tenantId: string; jobId: string; key: string },
): Promise<EffectState> {
  const inserted = await db.query(
    'INSERT INTO effects (job_id, key, tenant_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
    [effect.jobId, effect.key, effect.tenantId],
  );
  if (inserted.rowCount === 1) return { type: 'begun-now' };
  const { rows } = await db.query<{ finished_at: Date | null; value: unknown }>(
    'SELECT finished_at, value FROM effects WHERE job_id = $1 AND key = $2',
    [effect.jobId, effect.key],
  );
  const row = rows[0];
  return row?.finished_at == null ? { type: 'begun-before' } : { type: 'finished', value: row.value };
}

export async function finishEffect(
  db: Queryable,
  effect: { jobId: string; key: string; value: unknown },
): Promise<void> {
  await db.query('UPDATE effects SET finished_at = now(), value = $3 WHERE job_id = $1 AND key = $2', [
    effect.jobId,
    effect.key,
    JSON.stringify(effect.value ?? null),
  ]);
}

/** It certainly did not happen: the next attempt may try. */
export async function clearEffect(db: Queryable, effect: { jobId: string; key: string }): Promise<void> {
  await db.query('DELETE FROM effects WHERE job_id = $1 AND key = $2 AND finished_at IS NULL', [
    effect.jobId,
    effect.key,
  ]);
}
