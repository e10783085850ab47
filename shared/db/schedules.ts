/**
 * Schedules on behalf of a client: every statement filters by tenant. What makes their jobs is in schedule-ticks.ts.
 *
 * `decided_until` and `next_due_at` tell the scheduler where it is. Setting a schedule to what it is already leaves them
 * alone, so that a deploy may set its schedules every time without putting off or forgetting a tick.
 */
import type { JobState } from '../domain/job.ts';
import type { Misfire, Overlap, TickOutcome } from '../domain/misfire.ts';
import { ticksOf, type Timing } from '../domain/schedule-times.ts';
import { uuidv7 } from '../ids.ts';
import { inTransaction, sqlState, type Db, type Queryable } from './pool.ts';

/** The part of a row that says when. */
export interface TimingRow {
  readonly cron: string | null;
  readonly timezone: string | null;
  readonly every_ms: number | null;
  readonly anchor_at: Date | null;
}

export interface ScheduleRow extends TimingRow {
  readonly id: string;
  readonly key: string;
  readonly task: string;
  readonly input: unknown;
  readonly options: Readonly<Record<string, unknown>>;
  readonly misfire: Misfire;
  readonly overlap: Overlap;
  readonly is_paused: boolean;
  readonly last_tick_at: Date | null;
  readonly last_outcome: TickOutcome | null;
  readonly error: ScheduleError | null;
  readonly created_at: Date;
  readonly updated_at: Date;
  readonly last_job: { readonly id: string; readonly state: JobState; readonly runAt: string } | null;
  /** The database's clock, from which the next runs are counted. */
  readonly now: Date;
}

/** Why no job could be made of a schedule. */
export interface ScheduleError {
  readonly code: string;
  readonly message: string;
  readonly at: string;
}

/** A schedule that passed all checks. */
export interface NewSchedule {
  readonly key: string;
  readonly task: string;
  readonly input: unknown;
  readonly options: Readonly<Record<string, unknown>>;
  readonly timing:
    | { readonly type: 'cron'; readonly cron: string; readonly timezone: string }
    | { readonly type: 'every'; readonly everyMs: number };
  readonly misfire: Misfire;
  readonly overlap: Overlap;
  readonly isPaused: boolean;
  /** Files that the input refers to. */
  readonly fileIds: readonly string[];
}

/** What a list shows of a schedule: all but what may be large. */
export type ScheduleSummaryRow = Omit<ScheduleRow, 'input' | 'options'>;

const selectSql = (
  more: string,
) => `SELECT ${more} s.id, s.key, s.task, s.cron, s.timezone, s.every_ms, s.anchor_at, s.misfire, s.overlap,
    s.is_paused, s.last_tick_at, s.last_outcome, s.error, s.created_at, s.updated_at, j.last_job, now() AS now
  FROM schedules s LEFT JOIN LATERAL (
    SELECT json_build_object('id', id, 'state', state, 'runAt', run_at) AS last_job FROM jobs
    WHERE tenant_id = s.tenant_id AND schedule_key = s.key ORDER BY id DESC LIMIT 1) j ON true`;

export async function findSchedule(
  db: Queryable,
  tenantId: string,
  key: string,
): Promise<ScheduleRow | undefined> {
  const { rows } = await db.query<ScheduleRow>(
    `${selectSql('s.input, s.options,')} WHERE s.tenant_id = $1 AND s.key = $2`,
    [tenantId, key],
  );
  return rows[0];
}

/** In the order of their keys, after the key `after`. */
export async function listSchedules(
  db: Queryable,
  tenantId: string,
  options: { limit: number; after?: string },
): Promise<ScheduleSummaryRow[]> {
  const { rows } = await db.query<ScheduleSummaryRow>(
    `${selectSql('')} WHERE s.tenant_id = $1 AND ($2::text IS NULL OR s.key > $2) ORDER BY s.key LIMIT $3`,
    [tenantId, options.after ?? null, options.limit],
  );
  return rows;
}

/** @returns false when there is none. Its jobs stay. */
export async function deleteSchedule(db: Queryable, tenantId: string, key: string): Promise<boolean> {
  const { rowCount } = await db.query('DELETE FROM schedules WHERE tenant_id = $1 AND key = $2', [
    tenantId,
    key,
  ]);
  return rowCount === 1;
}

/**
 * Makes the schedule of this key, or changes it into this. Waits for a tick that is being made at this moment.
 * @returns `too-many` when the tenant has `limit` others already, `missing-file` when a file was deleted just now.
 */
export async function putSchedule(
  db: Db,
  tenantId: string,
  schedule: NewSchedule,
  limit: number,
): Promise<'created' | 'changed' | 'too-many' | 'missing-file'> {
  try {
    return await inTransaction(db, async (client) => {
      // One at a time for one tenant: counting its schedules, and two requests that make the same one.
      await client.query('SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE', [tenantId]);
      const known = await lockSchedule(client, tenantId, schedule.key);
      if (known === undefined && (await countSchedules(client, tenantId)) >= limit) return 'too-many';
      const id = known?.id ?? uuidv7();
      await writeSchedule(client, {
        id,
        tenantId,
        schedule,
        progress: progressOf(schedule, known, await readClock(client)),
      });
      await writeFiles(client, { id, tenantId, fileIds: schedule.fileIds });
      return known === undefined ? 'created' : 'changed';
    });
  } catch (err) {
    if (sqlState(err) === '23503') return 'missing-file';
    throw err;
  }
}

export function timingOf(row: TimingRow): Timing {
  if (row.cron !== null && row.timezone !== null)
    return { type: 'cron', cron: row.cron, timezone: row.timezone };
  if (row.every_ms !== null && row.anchor_at !== null)
    return { type: 'every', everyMs: row.every_ms, anchor: row.anchor_at };
  throw new Error('A schedule has neither a cron expression nor an interval.');
}

interface KnownRow extends TimingRow {
  readonly id: string;
  readonly is_paused: boolean;
  readonly decided_until: Date;
}

async function lockSchedule(client: Queryable, tenantId: string, key: string): Promise<KnownRow | undefined> {
  const { rows } = await client.query<KnownRow>(
    `SELECT id, cron, timezone, every_ms, anchor_at, is_paused, decided_until FROM schedules
     WHERE tenant_id = $1 AND key = $2 FOR UPDATE`,
    [tenantId, key],
  );
  return rows[0];
}

async function countSchedules(client: Queryable, tenantId: string): Promise<number> {
  const { rows } = await client.query<{ count: number }>(
    'SELECT count(*) AS count FROM schedules WHERE tenant_id = $1',
    [tenantId],
  );
  return rows[0]?.count ?? 0;
}

/** Not now(): that is when the transaction began, and it may have waited for locks since. */
async function readClock(client: Queryable): Promise<Date> {
  const { rows } = await client.query<{ now: Date }>('SELECT clock_timestamp() AS now');
  if (rows[0] === undefined) throw new Error('SELECT answered no row.');
  return rows[0].now;
}

interface Progress {
  readonly anchorAt: Date | null;
  readonly decidedUntil: Date;
  readonly nextDueAt: Date | null;
}

/** Where the scheduler is with it: at the beginning, unless it goes on as it did. */
function progressOf(schedule: NewSchedule, known: KnownRow | undefined, now: Date): Progress {
  const { timing, isPaused } = schedule;
  const isSame =
    known !== undefined &&
    (timing.type === 'cron'
      ? known.cron === timing.cron && known.timezone === timing.timezone
      : known.every_ms === timing.everyMs);
  const anchorAt = timing.type === 'cron' ? null : ((isSame ? known.anchor_at : null) ?? now);
  // What was due while it was paused is not made up for.
  const decidedUntil = isSame && !known.is_paused && !isPaused ? known.decided_until : now;
  if (isPaused) return { anchorAt, decidedUntil, nextDueAt: null };
  const ticks = ticksOf(
    timing.type === 'cron' ? timing : { type: 'every', everyMs: timing.everyMs, anchor: anchorAt ?? now },
  );
  return { anchorAt, decidedUntil, nextDueAt: ticks.next(decidedUntil) ?? null };
}

async function writeSchedule(
  client: Queryable,
  row: { id: string; tenantId: string; schedule: NewSchedule; progress: Progress },
): Promise<void> {
  const { id, tenantId, schedule, progress } = row;
  const { timing } = schedule;
  await client.query(
    `INSERT INTO schedules (id, tenant_id, key, task, input, options, cron, timezone, every_ms, misfire, overlap, is_paused,
       anchor_at, decided_until, next_due_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
     ON CONFLICT (id) DO UPDATE SET task = excluded.task, input = excluded.input, options = excluded.options, cron = excluded.cron,
       timezone = excluded.timezone, every_ms = excluded.every_ms, misfire = excluded.misfire, overlap = excluded.overlap,
       is_paused = excluded.is_paused, anchor_at = excluded.anchor_at, decided_until = excluded.decided_until,
       next_due_at = excluded.next_due_at, error = NULL, updated_at = now()`,
    [
      id,
      tenantId,
      schedule.key,
      schedule.task,
      JSON.stringify(schedule.input),
      JSON.stringify(schedule.options),
      timing.type === 'cron' ? timing.cron : null,
      timing.type === 'cron' ? timing.timezone : null,
      timing.type === 'every' ? timing.everyMs : null,
      schedule.misfire,
      schedule.overlap,
      schedule.isPaused,
      progress.anchorAt,
      progress.decidedUntil,
      progress.nextDueAt,
    ],
  );
}

/** Those that stay are not touched, so that nothing waits for a file that is being deleted but what newly refers to it. */
async function writeFiles(
  client: Queryable,
  row: { id: string; tenantId: string; fileIds: readonly string[] },
): Promise<void> {
  const values = [row.id, row.fileIds];
  await client.query(
    'DELETE FROM schedule_files WHERE schedule_id = $1 AND file_id <> ALL($2::uuid[])',
    values,
  );
  await client.query(
    `INSERT INTO schedule_files (schedule_id, file_id, tenant_id)
     SELECT $1, file_id, $3 FROM unnest($2::uuid[]) AS file_id ORDER BY file_id ON CONFLICT DO NOTHING`,
    [...values, row.tenantId],
  );
}
