import type { Queryable } from './pool.ts';

interface Place {
  readonly tenantId: string;
  readonly task: string;
  readonly key: string;
}

export async function readMemory(db: Queryable, { tenantId, task, key }: Place): Promise<unknown> {
  const { rows } = await db.query<{ value: unknown }>(
    'SELECT value FROM task_memory WHERE tenant_id = $1 AND task = $2 AND key = $3',
    [tenantId, task, key],
  );
  return rows[0]?.value;
}

export async function writeMemory(
  db: Queryable,
  { tenantId, task, key }: Place,
  value: unknown,
): Promise<void> {
  await db.query(
    `INSERT INTO task_memory (tenant_id, task, key, value) VALUES ($1, $2, $3, $4)
     ON CONFLICT (tenant_id, task, key) DO UPDATE SET value = excluded.value, updated_at = now()`,
    [tenantId, task, key, JSON.stringify(value ?? null)],
  );
}
