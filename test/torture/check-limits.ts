/**
 * What must be true between jobs, read from the record after everything has ended: unique keys, concurrency keys and rates
 * (I15), the ticks of schedules (I16), and what waits for what (I17).
 */
import type { Db } from '#shared/db/pool.ts';
import type { FinalJob } from './job-kinds.ts';
import type { Hold } from './receivers.ts';

/** By the numbers of events: an event gets its own after its row was locked, so they tell what came first. */
const eventSql = (which: 'min' | 'max', job: string, condition: string) =>
  `(SELECT ${which}(e.id) FROM events e WHERE e.job_id = ${job} AND ${condition})`;
const bornSql = eventSql('min', 'j.id', 'true');
const endedSql = (job: string) =>
  eventSql('min', job, `e.type IN ('job.succeeded', 'job.failed', 'job.cancelled')`);
const startedSql = (job: string) => eventSql('min', job, `e.type = 'job.active'`);

/** Each selects what the sentence is true of. */
const rowChecks: readonly { name: string; sql: string }[] = [
  {
    name: 'I15: two jobs of one unique key lived at the same time',
    sql: `SELECT id, key FROM (
        SELECT *, max(ended) OVER (PARTITION BY tenant_id, task, key ORDER BY born ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS previous
        FROM (SELECT j.id, j.tenant_id, j.task, j.options->'uniqueKey'->>'key' AS key, ${bornSql} AS born, ${endedSql('j.id')} AS ended
          FROM jobs j WHERE j.options ? 'uniqueKey') AS lives
      ) AS l WHERE born < previous`,
  },
  {
    name: 'I15: two runs of one concurrency key at the same time, by the record',
    sql: `SELECT id, concurrency_key, started_at FROM (
        SELECT j.id, j.concurrency_key, a.started_at, max(a.finished_at) OVER (PARTITION BY j.tenant_id, j.queue, j.concurrency_key
          ORDER BY a.started_at, a.finished_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS previous
        FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.concurrency_max = 1
      ) AS runs WHERE started_at < previous`,
  },
  {
    name: 'I15: more starts than the rate of the queue within one window, which ends with this',
    sql: `WITH runs AS (
        SELECT j.id, j.queue, a.started_at FROM attempts a JOIN jobs j ON j.id = a.job_id
      )
      SELECT r.id, r.started_at, n.starts FROM runs r JOIN queues q ON q.name = r.queue AND q.rate_max IS NOT NULL
      CROSS JOIN LATERAL (SELECT count(*) AS starts FROM runs o WHERE o.queue = r.queue
        AND o.started_at > r.started_at - q.rate_per_ms * interval '1 ms' AND o.started_at <= r.started_at) AS n
      WHERE n.starts > q.rate_max`,
  },
  {
    name: 'I17: a job began before one that it waits for had ended',
    sql: `SELECT d.child_id AS id, d.parent_id FROM job_dependencies d WHERE ${startedSql('d.child_id')} < ${endedSql('d.parent_id')}`,
  },
  {
    name: 'I17: a job ran although one that had to succeed before did not',
    sql: `SELECT d.child_id AS id, d.parent_id, p.state FROM job_dependencies d JOIN jobs p ON p.id = d.parent_id
      WHERE d.on_end = 'success' AND p.state <> 'succeeded' AND ${startedSql('d.child_id')} IS NOT NULL`,
  },
  {
    name: 'I17: a job was cancelled for one before it, and all of those succeeded',
    sql: `SELECT j.id FROM jobs j WHERE j.error->>'code' = 'parent-failed' AND NOT EXISTS (
        SELECT FROM job_dependencies d JOIN jobs p ON p.id = d.parent_id WHERE d.child_id = j.id AND p.state <> 'succeeded')`,
  },
  {
    name: 'I17: a step succeeded, and not each of its items did',
    sql: `SELECT s.id, r.total, n.succeeded FROM jobs s JOIN each_runs r ON r.job_id = s.id
      CROSS JOIN LATERAL (SELECT count(*) AS succeeded FROM each_items i JOIN jobs j ON j.id = i.job_id
        WHERE i.each_id = s.id AND j.state = 'succeeded') AS n
      WHERE s.state = 'succeeded' AND n.succeeded IS DISTINCT FROM r.total`,
  },
  {
    name: 'I17: a step failed for one of its items, and all of them succeeded',
    sql: `SELECT s.id FROM jobs s WHERE s.error->>'code' = 'item-failed' AND NOT EXISTS (
        SELECT FROM each_items i JOIN jobs j ON j.id = i.job_id WHERE i.each_id = s.id AND j.state <> 'succeeded')`,
  },
  {
    name: 'I17: a job was made for an item that has another one, or for none',
    sql: `SELECT j.id, j.each_id FROM jobs j WHERE j.each_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM each_items i WHERE i.job_id = j.id AND i.each_id = j.each_id)`,
  },
  {
    name: 'I17: what waits for a batch began before the batch had ended',
    sql: `SELECT b.on_complete_job_id AS id, j.id AS job FROM batches b JOIN jobs j ON j.batch_id = b.id AND j.id <> b.on_complete_job_id
      WHERE ${startedSql('b.on_complete_job_id')} < ${endedSql('j.id')}`,
  },
  {
    name: 'I17: what waited for a batch was told other numbers than there are',
    sql: `SELECT c.id, c.result FROM batches b JOIN jobs c ON c.id = b.on_complete_job_id AND c.state = 'succeeded'
      CROSS JOIN LATERAL (SELECT count(*) AS total, count(*) FILTER (WHERE j.state = 'succeeded') AS succeeded,
        count(*) FILTER (WHERE j.state = 'failed') AS failed FROM jobs j WHERE j.batch_id = b.id AND j.id <> c.id) AS n
      WHERE ((c.result->'batch'->>'total')::int, (c.result->'batch'->>'succeeded')::int, (c.result->'batch'->>'failed')::int)
        <> (n.total, n.succeeded, n.failed)`,
  },
  {
    name: 'I16: a schedule made a job for no time, or two jobs for one',
    sql: `SELECT j.id, j.schedule_key FROM jobs j WHERE j.schedule_key IS NOT NULL
      AND (SELECT count(*) FROM schedule_ticks t WHERE t.job_id = j.id) <> 1`,
  },
  {
    name: 'I16: a time of a schedule was decided, and its job is missing',
    sql: `SELECT s.key, t.due_at FROM schedule_ticks t JOIN schedules s ON s.id = t.schedule_id LEFT JOIN jobs j ON j.id = t.job_id WHERE j.id IS NULL`,
  },
  {
    name: 'I16: a time of a schedule is off its beat',
    sql: `SELECT s.key, t.due_at FROM schedule_ticks t JOIN schedules s ON s.id = t.schedule_id
      WHERE mod(round(extract(epoch FROM t.due_at - coalesce(s.anchor_at, 'epoch')) * 1000), coalesce(s.every_ms, 1000)) <> 0 OR t.due_at > t.made_at`,
  },
  {
    name: 'I16: a time before this one was lost',
    sql: `SELECT key, due_at, previous FROM (
        SELECT s.key, s.misfire, coalesce(s.every_ms, 1000) AS every_ms, t.due_at,
          coalesce(lag(t.due_at) OVER (PARTITION BY s.id ORDER BY t.due_at), s.anchor_at) AS previous
        FROM schedule_ticks t JOIN schedules s ON s.id = t.schedule_id
      ) AS t WHERE misfire = 'run-all' AND due_at <> previous + every_ms * interval '1 ms'`,
  },
  {
    name: 'I16: of what was missed another time than the last was made up for',
    sql: `SELECT s.key, t.due_at, t.made_at FROM schedule_ticks t JOIN schedules s ON s.id = t.schedule_id
      WHERE s.misfire = 'run-once' AND t.made_at >= t.due_at + coalesce(s.every_ms, 1000) * interval '1 ms'`,
  },
];

/** @returns everything that is wrong in the record. */
export async function checkLimits(db: Db): Promise<string[]> {
  const problems: string[] = [];
  for (const { name, sql } of rowChecks) {
    const { rows } = await db.query<Record<string, unknown>>(sql);
    for (const row of rows) problems.push(`${name}: ${JSON.stringify(row)}`);
  }
  return problems;
}

export interface RunOfKey {
  readonly jobId: string;
  /** In ms of the clock. */
  readonly startedAt: number;
  readonly finishedAt: number;
}

/**
 * I15, as the outside sees it: of one key no two are at the receiver. One that was still there after its run was over by the
 * record does not count: its worker stood still, or was cut off, and limits.md says so. Nor does one job count twice: a crash of
 * Postgres may have forgotten that it was claimed.
 */
export function checkHolds(
  holds: readonly Hold[],
  jobs: readonly Pick<FinalJob, 'id' | 'tenant'>[],
  runs: readonly RunOfKey[],
): string[] {
  const tenantOf = new Map(jobs.map((job) => [job.id, job.tenant]));
  const runsOf = Map.groupBy(runs, (run) => run.jobId);
  const wasOver = (hold: Hold, at: number) =>
    runsOf.get(hold.jobId)?.some((run) => run.finishedAt >= hold.from && run.finishedAt <= at) === true;
  const problems: string[] = [];
  for (const group of Map.groupBy(holds, (hold) => `${tenantOf.get(hold.jobId)}/${hold.key}`).values()) {
    const sorted = group.toSorted((a, b) => a.from - b.from);
    for (const [index, later] of sorted.entries()) {
      const earlier = sorted
        .slice(0, index)
        .find(
          (hold) =>
            hold.jobId !== later.jobId && (hold.until ?? Infinity) > later.from && !wasOver(hold, later.from),
        );
      if (earlier !== undefined)
        problems.push(
          `I15: ${later.jobId} came to the receiver while ${earlier.jobId} of the same concurrency key ${later.key} was there`,
        );
    }
  }
  return problems;
}

export async function readRunsOfKeys(db: Db): Promise<RunOfKey[]> {
  const { rows } = await db.query<RunOfKey>(
    `SELECT j.id AS "jobId", (extract(epoch FROM a.started_at) * 1000)::float8 AS "startedAt",
       (extract(epoch FROM a.finished_at) * 1000)::float8 AS "finishedAt"
     FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.concurrency_key IS NOT NULL`,
  );
  return rows;
}
