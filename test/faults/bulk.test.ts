/** Bulk actions while workers die, and while they are cancelled: every job is met once. */
import { Client } from 'pg';
import { expect, test } from 'vitest';
import type { TestJob } from '#test/support/service.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';

async function submitMany(system: System, count: number, job: object): Promise<string[]> {
  const ids: string[] = [];
  for (let n = 0; n < count; n += 500) {
    const jobs = Array.from({ length: Math.min(500, count - n) }, () => job);
    const response = await system.client.post('/v1/jobs/batch', { jobs });
    expect(response.status).toBe(202);
    const { items } = (await response.json()) as { items: { id: string }[] };
    ids.push(...items.map((item) => item.id));
  }
  system.accepted.push(...ids);
  return ids;
}

async function bulk(system: System, body: object): Promise<string> {
  const response = await system.client.post('/v1/bulk', body);
  expect(response.status).toBe(202);
  const { id } = (await response.json()) as { id: string };
  system.accepted.push(id);
  return id;
}

async function countCancelled({ db }: System): Promise<number> {
  const { rows } = await db.query<{ count: number }>(
    `SELECT count(*) AS count FROM jobs WHERE state = 'cancelled'`,
  );
  return rows[0]?.count ?? 0;
}

const later = (tag: string) => ({ task: 'test.noop', options: { delayMs: 3_600_000, tags: [tag] } });

test.concurrent('a bulk cancel ends what waits, stops what runs, leaves the rest, and what is made after it', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    const running = await system.submitGated('test.sleep', {}, { tags: ['go'] });
    await system.started([running]);
    const ended = await system.submit('test.noop', {}, { tags: ['go'] });
    await system.finished([ended]);
    const waiting = await submitMany(system, 450, later('go'));
    const [other = ''] = await submitMany(system, 1, later('stay'));
    const dry = await system.client.post('/v1/bulk', { action: 'cancel', q: 'tag:go', dryRun: true });
    expect(await dry.json()).toMatchObject({ matched: 452, isExact: true });
    const id = await bulk(system, { action: 'cancel', q: 'tag:go', reason: 'sent by mistake' });
    const [after = ''] = await submitMany(system, 1, later('go'));
    expect(await system.finished([id])).toMatchObject([
      { state: 'succeeded', result: { matched: 452, done: 451, skipped: 1, errors: [] } },
    ]);
    expect(await system.finished([running, waiting[0] ?? ''])).toMatchObject([
      { state: 'cancelled', cancelReason: 'sent by mistake' },
      { state: 'cancelled', cancelReason: 'sent by mistake' },
    ]);
    expect(await countCancelled(system)).toBe(451);
    for (const left of [other, after]) {
      expect(await system.client.job(left)).toMatchObject({ state: 'scheduled' });
      await system.client.post(`/v1/jobs/${left}/cancel`);
    }
  }));

test.concurrent.each([
  { point: 'bulk.before-commit', deaths: 2 },
  { point: 'bulk.after-commit', deaths: 2 },
] as const)(
  'F43: killed at $point, a bulk action goes on where it was, and counts every job once',
  ({ point, deaths }) =>
    withSystem({}, async (system) => {
      await submitMany(system, 700, later('go'));
      const id = await bulk(system, { action: 'cancel', q: 'tag:go' });
      let before = 0;
      for (let n = 0; n < deaths; n += 1) {
        const dying = await system.startWorker({ CRASH_AT: point });
        await dying.exited;
        const cancelled = await countCancelled(system);
        // Whole pages only.
        expect(cancelled - before).toBe(point === 'bulk.after-commit' ? 200 : 0);
        before = cancelled;
      }
      await system.startWorker();
      const [job] = await system.finished([id]);
      expect(job).toMatchObject({
        state: 'succeeded',
        result: { matched: 700, done: 700, skipped: 0, errors: [] },
      });
      expect(job?.attempts.map((attempt: TestJob['attempts'][number]) => attempt.outcome)).toEqual([
        ...Array.from({ length: deaths }, () => 'crashed'),
        'succeeded',
      ]);
      expect(await countCancelled(system)).toBe(700);
    }),
);

async function countReplays({ db }: System): Promise<unknown> {
  const { rows } = await db.query(
    `SELECT count(*) AS made, count(DISTINCT options->>'replayOf') AS of FROM jobs WHERE options ? 'replayOf'`,
  );
  return rows[0];
}

test.concurrent.each([
  { point: 'bulk.before-commit', perDeath: 0 },
  { point: 'bulk.after-commit', perDeath: 50 },
] as const)(
  'F43: killed at $point, a bulk replay makes one new job of each, and each of them runs',
  ({ point, perDeath }) =>
    withSystem({}, async (system) => {
      const ids = await submitMany(system, 130, later('go'));
      for (const id of ids) await system.client.post(`/v1/jobs/${id}/cancel`);
      const id = await bulk(system, { action: 'replay', q: 'tag:go' });
      for (let n = 1; n <= 2; n += 1) {
        const dying = await system.startWorker({ CRASH_AT: point, WINDLASS_QUEUES: 'bulk:1' });
        await dying.exited;
        expect(await countReplays(system)).toEqual({ made: n * perDeath, of: n * perDeath });
      }
      await system.startWorker();
      expect(await system.finished([id])).toMatchObject([
        { state: 'succeeded', result: { matched: 130, done: 130, skipped: 0, failed: 0, errors: [] } },
      ]);
      expect(await countReplays(system)).toEqual({ made: 130, of: 130 });
      const { rows } = await system.db.query<{ id: string }>(
        `SELECT id FROM jobs WHERE options ? 'replayOf'`,
      );
      const replays = await system.finished(rows.map((row) => row.id));
      expect(replays.every((job) => job.state === 'succeeded' && job.attempts.length === 1)).toBe(true);
    }),
);

test.concurrent('a bulk retry runs again what has failed, and a bulk delete removes what has ended, with its files', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    const { client } = system;
    const upload = await client.request('POST', '/v1/files', {
      body: 'x',
      headers: { 'content-type': 'text/plain' },
    });
    const { id: file } = (await upload.json()) as { id: string };
    const fail = { task: 'test.fail', input: { how: 'error' }, options: { attempts: 1, tags: ['go'] } };
    const failing = await submitMany(system, 3, fail);
    const copying = await system.submit('test.files', { file }, { tags: ['go'] });
    const [copied] = await system.finished([copying, ...failing]);
    const output = (copied?.result as { files: [string] } | undefined)?.files[0];

    const retry = await bulk(system, { action: 'retry', q: 'tag:go' });
    expect(await system.finished([retry])).toMatchObject([
      { result: { matched: 4, done: 3, skipped: 1, failed: 0 } },
    ]);
    await waitFor(
      async () => {
        const jobs = await system.finished(failing);
        return jobs.every((job) => job.attempts.length === 2) ? true : undefined;
      },
      { what: 'the second runs to end' },
    );

    const waiting = await system.submit('test.noop', {}, { delayMs: 3_600_000, tags: ['go'] });
    const remove = await bulk(system, { action: 'delete', q: 'tag:go' });
    expect(await system.finished([remove])).toMatchObject([
      { result: { matched: 5, done: 4, skipped: 1, failed: 0 } },
    ]);
    for (const id of [copying, ...failing]) {
      expect((await client.get(`/v1/jobs/${id}`)).status).toBe(404);
      system.accepted.splice(system.accepted.indexOf(id), 1);
    }
    expect((await client.get(`/v1/files/${output}`)).status).toBe(404);
    expect((await client.get(`/v1/files/${file}`)).status).toBe(200);
    await client.post(`/v1/jobs/${waiting}/cancel`);
  }));

test.concurrent('a bulk action can be cancelled, and what it has done stays done', () =>
  withSystem({}, async (system) => {
    const ids = await submitMany(system, 3_000, later('go'));
    // A row that somebody holds stops it in the middle. Not of the pool, which would take a connection at rest for half-open.
    const holder = new Client({ connectionString: system.world.databaseUrl });
    await holder.connect();
    try {
      await holder.query('BEGIN');
      await holder.query('SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE', [ids[1_500]]);
      await system.startWorker();
      const id = await bulk(system, { action: 'cancel', q: 'tag:go' });
      await waitFor(async () => ((await countCancelled(system)) >= 1_200 ? true : undefined), {
        what: 'the action to get half-way',
      });
      expect((await system.client.post(`/v1/jobs/${id}/cancel`)).status).toBe(202);
      expect(await system.finished([id])).toMatchObject([{ state: 'cancelled' }]);
      await holder.query('ROLLBACK');
    } finally {
      await holder.end();
    }
    // What was about to be done when it ended is not done afterwards.
    await waitFor(
      async () => {
        const { rowCount } = await system.db.query(
          `SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND (state = 'idle in transaction' OR wait_event_type = 'Lock')`,
        );
        return rowCount === 0 ? true : undefined;
      },
      { what: 'the held page to end' },
    );
    const cancelled = await countCancelled(system);
    expect(cancelled).toBeGreaterThan(1_200);
    expect(cancelled).toBeLessThan(3_000);
    // The rest, so that everything has ended.
    const rest = await bulk(system, { action: 'cancel', q: 'tag:go' });
    expect(await system.finished([rest])).toMatchObject([
      { result: { matched: 3_000, done: 3_000 - (cancelled - 1) } },
    ]);
  }));
