import { inTransaction, type Db } from './pool.ts';

/**
 * Makes everything that waits for a time due `ms` sooner: for tests, in which nobody can wait for tomorrow. The database's
 * clock decides all times (faults.md, R11) and cannot be set, so the times move instead. What has happened keeps its times.
 */
export async function shiftTime(db: Db, ms: number): Promise<void> {
  await inTransaction(db, async (client) => {
    for (const sql of statements) await client.query(sql, [ms]);
  });
}

const shift = `$1::float8 * interval '1 ms'`;

const statements = [
  `UPDATE jobs SET run_at = run_at - ${shift}, rank_at = rank_at - ${shift} WHERE state IN ('scheduled', 'retrying', 'blocked')`,
  `UPDATE jobs SET expires_at = expires_at - ${shift} WHERE expires_at IS NOT NULL`,
  `UPDATE jobs SET purged_at = purged_at - ${shift} WHERE purged_at IS NOT NULL`,
  `UPDATE files SET expires_at = expires_at - ${shift} WHERE expires_at IS NOT NULL`,
  `UPDATE idempotency_keys SET created_at = created_at - ${shift}`,
  `UPDATE schedules SET next_due_at = next_due_at - ${shift}, decided_until = decided_until - ${shift},
     anchor_at = anchor_at - ${shift}`,
];
