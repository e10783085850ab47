import { createAcceptJobs } from '#shared/db/accept-jobs.ts';
import type { Db } from '#shared/db/pool.ts';
import { uuidv7 } from '#shared/ids.ts';

/**
 * Jobs in the database as the api would have made them, without the api: none has a delivery yet. Made by the same
 * statement, so that a change to it cannot leave the benchmark behind.
 */
export async function insertWaitingJobs(
  db: Db,
  options: {
    task: string;
    queue: string;
    count: number;
    tenantId?: string;
    input?: unknown;
    inputFiles?: readonly string[];
  },
): Promise<void> {
  const { task, queue, count, tenantId = 'default', input = { n: 1 }, inputFiles = [] } = options;
  await db.query('INSERT INTO queues (name) VALUES ($1) ON CONFLICT DO NOTHING', [queue]);
  const accepts = createAcceptJobs(db);
  for (let added = 0; added < count; added += 5_000) {
    await Promise.all(
      Array.from({ length: Math.min(5_000, count - added) }, () =>
        accepts.add({
          id: uuidv7(),
          tenantId,
          task,
          queue,
          priority: 0,
          delayMs: 0,
          runAt: null,
          input,
          options: {},
          tags: [],
          attemptsMax: 3,
          retentionMs: 86_400_000,
          traceparent: null,
          inputFiles,
          newFiles: [],
          idempotency: null,
          scheduleKey: null,
          batchId: null,
        }),
      ),
    );
  }
  // What this process would have added to Redis at once waits for the feeder like the rest.
  await db.query('UPDATE jobs SET dispatched_at = NULL WHERE dispatched_at IS NOT NULL AND tenant_id = $1', [
    tenantId,
  ]);
}

/** The same, for very many: one is accepted, and its row repeated. */
export async function multiplyWaitingJob(
  db: Db,
  options: { task: string; queue: string; count: number },
): Promise<void> {
  await insertWaitingJobs(db, { ...options, count: 1 });
  const { rows } = await db.query<{ names: string }>(
    `SELECT string_agg(quote_ident(column_name), ', ') AS names FROM information_schema.columns
     WHERE table_name = 'jobs' AND table_schema = 'public' AND column_name <> 'id' AND is_generated = 'NEVER'`,
  );
  const names = rows[0]?.names ?? '';
  for (let made = 1; made < options.count; made += 50_000) {
    await db.query(
      `INSERT INTO jobs (id, ${names}) SELECT uuidv7(), ${names} FROM (SELECT * FROM jobs LIMIT 1) AS one
       CROSS JOIN generate_series(1, $1)`,
      [Math.min(50_000, options.count - made)],
    );
  }
  await db.query('VACUUM (ANALYZE) jobs');
}
