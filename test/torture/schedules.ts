/** Schedules that are due every second while everything breaks; check-limits.ts holds their ticks against the clock. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Db } from '#shared/db/pool.ts';
import type { Tenant } from './clients.ts';
import type { RetryingClient } from './retrying-client.ts';

/** Their jobs are no client's, but a run may be narrowed down to them as to a kind of job. */
export const scheduleKind = 'schedule';

const schedules: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'every-second': { everyMs: 1_000, misfire: 'run-all' },
  'each-second': { cron: '* * * * * *', misfire: 'run-all' },
  'once-made-up-for': { everyMs: 1_000, misfire: 'run-once' },
};

export async function putSchedules(
  client: RetryingClient,
  tenant: Tenant,
  { paused }: { paused: boolean },
): Promise<void> {
  for (const [key, timing] of Object.entries(schedules)) {
    const body = { task: 'test.noop', input: { n: 0 }, options: { tags: [scheduleKind] }, ...timing, paused };
    const outcome = await client.request('PUT', `/v1/schedules/${key}`, {
      key: tenant.key,
      isRepeatable: true,
      headers: { 'content-type': 'application/json' },
      body: () => JSON.stringify(body),
    });
    const status = 'answer' in outcome ? outcome.answer.status : outcome.unanswered;
    if (status !== 200 && status !== 201)
      throw new Error(`The schedule ${key} was not set: ${JSON.stringify(outcome)}`);
  }
}

/**
 * Waits until all that has come due meanwhile has been decided. To be called before the schedules are paused: what comes due in
 * the moment of a pause is not made.
 * @returns what has not been made, and will not be.
 */
export async function checkLastTicks(db: Db, giveUp: AbortSignal): Promise<string[]> {
  const { rows: clock } = await db.query<{ now: string }>('SELECT now()::text AS now');
  for (;;) {
    const { rows } = await db.query<{ key: string; isBehind: boolean; isLost: boolean }>(
      `SELECT s.key, s.decided_until < $1 AS "isBehind",
         s.decided_until >= coalesce(t.last, s.anchor_at, s.created_at) + coalesce(s.every_ms, 1000) * interval '1 ms' AS "isLost"
       FROM schedules s CROSS JOIN LATERAL (SELECT max(due_at) AS last FROM schedule_ticks t WHERE t.schedule_id = s.id) AS t`,
      [clock[0]?.now],
    );
    if (rows.length === 0) return ['I16: there is no schedule, and some were set'];
    if (!rows.some((row) => row.isBehind) || giveUp.aborted)
      return rows.flatMap(({ key, isBehind, isLost }) =>
        isBehind || isLost ? [`I16: the last times of the schedule ${key} were lost`] : [],
      );
    await sleep(200);
  }
}
