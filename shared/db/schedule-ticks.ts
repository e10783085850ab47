/**
 * Making the jobs of schedules. Any number of schedulers may do so at once: each takes due rows that nobody else has
 * (SKIP LOCKED), and in one transaction writes the ticks, the jobs, and how far the schedule has come. A scheduler that
 * dies in between has done nothing. The ticks' primary key is the last word: one job per tick, whatever clocks do.
 */
import type { Misfire, Overlap, TickOutcome } from '../domain/misfire.ts';
import type { NewJob } from './accept-jobs.ts';
import { briefRest, inTransaction, isDataError, type Db, type Queryable } from './pool.ts';
import type { ScheduleError, TimingRow } from './schedules.ts';
import { countWaitingOfTenant } from './tenant-usage.ts';
import { insertAnyJobs } from './unique-jobs.ts';

/** A worker that does not know the task leaves the schedule to those that do, for so long, in ms: a deploy is under way. */
export const unknownTaskGraceMs = 60_000;
/** After an error the schedule is looked at again, in ms. Its ticks wait meanwhile; what is late then is a misfire. */
export const errorRetryMs = 60_000;

export interface DueSchedule extends TimingRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly key: string;
  readonly task: string;
  readonly input: unknown;
  readonly options: unknown;
  readonly misfire: Misfire;
  readonly overlap: Overlap;
  readonly decided_until: Date;
  readonly has_error: boolean;
  readonly file_ids: readonly string[];
  /** The database's clock. */
  readonly now: Date;
  /** A job of it has not ended. Only looked up where `overlap` asks for it. */
  readonly is_busy: boolean;
  /** So many jobs more its tenant may have waiting; Infinity without a quota. */
  readonly room: number;
}

/** What becomes of a due schedule. After a failure its ticks are still undecided. */
export type TickDecision =
  | {
      readonly type: 'decided';
      readonly jobs: readonly { readonly dueAt: Date; readonly job: NewJob }[];
      /** What writing them costs. */
      readonly bytes: number;
      /** Up to here; before `now` when there are more than one round should make. */
      readonly decidedUntil: Date;
      readonly nextDueAt: Date | null;
      /** Undefined when nothing was due after all: the rules of its time zone have changed. */
      readonly lastTick: { readonly at: Date; readonly outcome: TickOutcome } | undefined;
    }
  | {
      readonly type: 'failed';
      /** For its owner. */
      readonly error: { readonly code: string; readonly message: string };
      /** For the log. */
      readonly cause?: unknown;
    };

export interface TickResult {
  readonly schedules: number;
  readonly jobs: number;
  /** Those that worked until now. */
  readonly newlyFailed: readonly {
    readonly schedule: string;
    readonly tenantId: string;
    readonly code: string;
    /** What the owner is not shown. */
    readonly err?: unknown;
  }[];
}

/** Ms until the next schedule is due that this worker should look at; undefined when none ever is. */
export async function findNextTick(db: Queryable, tasks: readonly string[]): Promise<number | undefined> {
  const { rows } = await db.query<{ ms: number }>({
    name: 'schedule-next',
    text: `SELECT (extract(epoch FROM next_due_at - clock_timestamp()) * 1000)::float8 AS ms FROM schedules WHERE ${eligibleSql}
           ORDER BY next_due_at LIMIT 1`,
    values: [tasks],
  });
  return rows[0]?.ms;
}

/**
 * Decides up to `limit` due schedules by `decide`, which must not throw. Those that are left when the jobs have come to
 * `bytesMax` stay due for the next round, so that no transaction and no statement grows without bound.
 */
export function tickSchedules(
  db: Db,
  options: {
    tasks: readonly string[];
    limit: number;
    bytesMax: number;
    /** 0: no limit. */
    waitingPerTenantMax: number;
    decide: (schedule: DueSchedule) => TickDecision;
  },
): Promise<TickResult> {
  return inTransaction(db, async (client) => {
    const due = await lockDue(client, options.tasks, options.limit);
    if (due.length === 0) return { schedules: 0, jobs: 0, newlyFailed: [] };
    const busy = await listBusy(client, due);
    const rooms = await readRooms(client, due, options.waitingPerTenantMax);
    const decided: Decided[] = [];
    let bytes = 0;
    for (const row of due) {
      if (bytes >= options.bytesMax) break;
      const room = rooms.get(row.tenant_id) ?? Number.POSITIVE_INFINITY;
      const schedule = { ...row, is_busy: busy.has(row.id), room };
      const decision = options.decide(schedule);
      if (decision.type === 'decided') {
        bytes += decision.bytes;
        rooms.set(row.tenant_id, room - decision.jobs.length);
      }
      decided.push({ schedule, decision });
    }
    const { outcomes, jobs } = await makeJobs(client, decided);
    await writeOutcomes(client, outcomes);
    return {
      schedules: decided.length,
      jobs,
      newlyFailed: outcomes
        .filter(({ schedule }) => !schedule.has_error)
        .flatMap(({ schedule, decision }) =>
          decision.type === 'failed'
            ? {
                schedule: schedule.key,
                tenantId: schedule.tenant_id,
                code: decision.error.code,
                ...(decision.cause !== undefined && { err: decision.cause }),
              }
            : [],
        ),
    };
  });
}

/** Forgets ticks that are a day old. */
export async function pruneTicks(db: Queryable, limit: number): Promise<number> {
  const { rowCount } = await db.query(
    `DELETE FROM schedule_ticks WHERE (schedule_id, due_at) IN
       (SELECT schedule_id, due_at FROM schedule_ticks WHERE made_at < now() - interval '1 day' ORDER BY made_at LIMIT $1)`,
    [limit],
  );
  return rowCount ?? 0;
}

const eligibleSql = `next_due_at IS NOT NULL AND
  (task = ANY($1) OR next_due_at < now() - interval '${unknownTaskGraceMs} ms')`;

type LockedRow = Omit<DueSchedule, 'is_busy' | 'room'>;

async function lockDue(client: Queryable, tasks: readonly string[], limit: number): Promise<LockedRow[]> {
  const { rows } = await client.query<LockedRow>({
    name: 'schedule-lock',
    text: `WITH ${briefRest} SELECT id, tenant_id, key, task, input, options, cron, timezone, every_ms, anchor_at, misfire, overlap, decided_until,
        error IS NOT NULL AS has_error, now() AS now,
        ARRAY(SELECT file_id::text FROM schedule_files f WHERE f.schedule_id = s.id) AS file_ids
      FROM brief_rest CROSS JOIN schedules s WHERE ${eligibleSql} AND next_due_at <= now() ORDER BY next_due_at LIMIT $2 FOR UPDATE OF s SKIP LOCKED`,
    values: [tasks, limit],
  });
  return rows;
}

/** A statement of its own, after the locks: the one that takes them may not see a job that was made a moment ago. */
async function listBusy(client: Queryable, due: readonly LockedRow[]): Promise<Set<string>> {
  const ids = due.filter((row) => row.overlap === 'skip').map((row) => row.id);
  if (ids.length === 0) return new Set();
  const { rows } = await client.query<{ id: string }>({
    name: 'schedule-busy',
    text: `SELECT s.id FROM schedules s WHERE s.id = ANY($1) AND EXISTS (SELECT 1 FROM jobs j
      WHERE j.tenant_id = s.tenant_id AND j.schedule_key = s.key AND j.state NOT IN ('succeeded', 'failed', 'cancelled'))`,
    values: [ids],
  });
  return new Set(rows.map((row) => row.id));
}

/** By tenant. Two workers that decide schedules of one tenant at the same moment both see the room that there was before. */
async function readRooms(
  client: Queryable,
  due: readonly LockedRow[],
  waitingMax: number,
): Promise<Map<string, number>> {
  const rooms = new Map<string, number>();
  if (waitingMax === 0) return rooms;
  for (const tenantId of new Set(due.map((row) => row.tenant_id)))
    rooms.set(tenantId, waitingMax - (await countWaitingOfTenant(client, tenantId, waitingMax)));
  return rooms;
}

interface Decided {
  readonly schedule: DueSchedule;
  readonly decision: TickDecision;
}

/**
 * Inserts the ticks and jobs of all, in one go. If the database refuses the data of one, each is tried alone: no
 * schedule may stop those of others.
 */
async function makeJobs(
  client: Queryable,
  decided: readonly Decided[],
): Promise<{ outcomes: Decided[]; jobs: number }> {
  await client.query('SAVEPOINT jobs');
  try {
    return { outcomes: [...decided], jobs: await insertTicks(client, decided) };
  } catch (err) {
    if (!isDataError(err)) throw err;
    await client.query('ROLLBACK TO SAVEPOINT jobs');
    const [only] = decided;
    if (decided.length === 1 && only !== undefined) {
      const decision: TickDecision = { type: 'failed', error: refusedByDatabase, cause: err };
      return { outcomes: [{ ...only, decision }], jobs: 0 };
    }
    const outcomes: Decided[] = [];
    let jobs = 0;
    for (const one of decided) {
      const made = await makeJobs(client, [one]);
      outcomes.push(...made.outcomes);
      jobs += made.jobs;
    }
    return { outcomes, jobs };
  }
}

const refusedByDatabase = {
  code: 'internal',
  message:
    'Its job could not be stored: the database refused what it holds. PUT it again with another input or other options; ' +
    'why exactly is in the log of the worker.',
};

async function insertTicks(client: Queryable, decided: readonly Decided[]): Promise<number> {
  const wanted = decided.flatMap(({ schedule, decision }) =>
    decision.type === 'decided'
      ? decision.jobs.map(({ dueAt, job }) => ({ scheduleId: schedule.id, dueAt, job }))
      : [],
  );
  if (wanted.length === 0) return 0;
  const { rows } = await client.query<{ job_id: string }>({
    name: 'schedule-ticks',
    text: `INSERT INTO schedule_ticks (schedule_id, due_at, job_id) SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[])
           ON CONFLICT DO NOTHING RETURNING job_id`,
    values: [
      wanted.map((tick) => tick.scheduleId),
      wanted.map((tick) => tick.dueAt.toISOString()),
      wanted.map((tick) => tick.job.id),
    ],
  });
  const inserted = new Set(rows.map((row) => row.job_id));
  const jobs = wanted.map((tick) => tick.job).filter((job) => inserted.has(job.id));
  if (jobs.length === 0) return 0;
  // A unique key that another job has makes a tick without a job.
  const accepted = await insertAnyJobs(client, jobs);
  return accepted.filter((answer) => answer.type === 'accepted').length;
}

async function writeOutcomes(client: Queryable, outcomes: readonly Decided[]): Promise<void> {
  const items = outcomes.map(({ schedule, decision }) =>
    decision.type === 'failed'
      ? {
          id: schedule.id,
          error: { ...decision.error, at: schedule.now.toISOString() } satisfies ScheduleError,
        }
      : {
          id: schedule.id,
          decidedUntil: decision.decidedUntil.toISOString(),
          nextDueAt: decision.nextDueAt?.toISOString() ?? null,
          lastTickAt: decision.lastTick?.at.toISOString() ?? null,
          lastOutcome: decision.lastTick?.outcome ?? null,
        },
  );
  await client.query({
    name: 'schedule-write',
    text: `UPDATE schedules s SET error = o.error,
        decided_until = coalesce(o."decidedUntil", s.decided_until),
        next_due_at = CASE WHEN o.error IS NULL THEN o."nextDueAt" ELSE now() + interval '${errorRetryMs} ms' END,
        last_tick_at = coalesce(o."lastTickAt", s.last_tick_at), last_outcome = coalesce(o."lastOutcome", s.last_outcome)
      FROM jsonb_to_recordset($1::jsonb) AS o(id uuid, error jsonb, "decidedUntil" timestamptz, "nextDueAt" timestamptz,
        "lastTickAt" timestamptz, "lastOutcome" text)
      WHERE s.id = o.id`,
    values: [JSON.stringify(items)],
  });
}
