/**
 * What must be true of every history, whatever broke on the way: the invariants of the fault tests, read from the
 * record, the storage and the machine after all workers have ended. Every problem is reported, not the first one.
 */
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createDb, type Db } from '#shared/db/pool.ts';
import { reapDeadWorkers } from '#shared/db/workers.ts';
import { jobStates, transitions } from '#shared/domain/job.ts';
import { createLogger } from '#shared/log.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { createJanitor } from '#worker/services/janitor.ts';
import { blockingDisk } from './blocking-disk.ts';
import { findTaskProcesses } from './find-processes.ts';
import type { ServiceWorld } from './service.ts';
import { waitFor } from './wait-for.ts';

/**
 * @param accepted ids of the jobs that the api said it had accepted; there may be others whose answer was lost.
 * @throws Error that lists everything that is wrong, by invariant.
 */
export async function checkHistory(world: ServiceWorld, accepted: readonly string[]): Promise<void> {
  const db = createDb({ url: world.databaseUrl, size: 2, timeoutMs: 10_000, name: 'check-history' });
  try {
    await sweepEverything(world, db);
    const problems = [
      ...(await checkRows(db, accepted)),
      ...(await checkFiles(world, db)),
      ...checkLeftovers(world),
    ];
    if (problems.length > 0)
      throw new Error(`${problems.length} invariant(s) do not hold:\n${problems.join('\n')}`);
  } finally {
    await db.end();
  }
}

/** What the reaper and the janitor of some worker would do in the next hour. */
async function sweepEverything({ dataDir }: ServiceWorld, db: Db): Promise<void> {
  await waitFor(
    async () => {
      const { rowCount } = await db.query(
        'SELECT 1 FROM workers WHERE reaped_at IS NULL AND lease_until > now()',
      );
      return rowCount === 0 ? true : undefined;
    },
    { what: 'the leases of killed workers to end' },
  );
  await reapDeadWorkers(db, () => undefined, new Date(Date.now() + 3_600_000));
  const janitor = createJanitor({
    db,
    storage: createFsStorage({ dir: join(dataDir, 'files') }),
    disk: blockingDisk,
    scratchRoot: join(dataDir, 'scratch'),
    idempotencyMs: 86_400_000,
    log: createLogger({ service: 'check-history', level: 'silent' }),
  });
  await janitor.prune();
  await janitor.sweep(0);
}

const isFinal = `state IN ('succeeded', 'failed', 'cancelled')`;
const attemptsOf = (condition: string) =>
  `(SELECT count(*) FROM attempts a WHERE a.job_id = j.id AND (${condition}))`;
const eventsOf = (condition: string) =>
  `(SELECT count(*) FROM events e WHERE e.job_id = j.id AND (${condition}))`;

/** Pairs of events: of every move in the table of the domain, and of how a job begins. */
const movesSql = [
  ...['queued', 'scheduled', 'blocked'].map((state) => `('', 'job.${state}')`),
  ...jobStates.flatMap((from) => transitions[from].map((to) => `('job.${from}', 'job.${to}')`)),
].join(', ');

/** By hand: each makes one more end, which is another one's beginning. */
const retries = eventsOf(`e.type = 'job.queued' AND e.data ? 'retry'`);

/** Each selects the jobs (by id) for which the sentence is true. $1: the accepted ids. */
const rowChecks: readonly { name: string; sql: string }[] = [
  {
    name: 'I1: an accepted job is missing',
    sql: 'SELECT wanted.id FROM unnest($1::uuid[]) AS wanted(id) LEFT JOIN jobs j ON j.id = wanted.id WHERE j.id IS NULL',
  },
  { name: 'I2: a job has not ended', sql: `SELECT id, state FROM jobs j WHERE NOT ${isFinal}` },
  {
    name: 'I3: a job that succeeded has not exactly one attempt that did, or another job has one',
    sql: `SELECT id, state FROM jobs j WHERE ${attemptsOf(`a.outcome = 'succeeded'`)} <> CASE state WHEN 'succeeded' THEN 1 ELSE 0 END`,
  },
  {
    name: 'I3: a job that ended has not exactly one terminal event, or it is another one than its state',
    sql: `SELECT id, state FROM jobs j WHERE ${isFinal}
      AND (${eventsOf(`e.type IN ('job.succeeded', 'job.failed', 'job.cancelled')`)} <> 1 + ${retries} OR ${eventsOf(`e.type = 'job.' || j.state`)} < 1
        OR ${eventsOf(`e.type IN ('job.succeeded', 'job.cancelled')`)} > 1)`,
  },
  {
    name: 'I3: an attempt began or ended after the one that succeeded',
    sql: `SELECT j.id FROM jobs j JOIN attempts a ON a.job_id = j.id AND a.outcome = 'succeeded'
      WHERE EXISTS (SELECT 1 FROM attempts later WHERE later.job_id = j.id AND later.fence > a.fence)`,
  },
  {
    name: 'I8: an attempt has a fence that its job never reached',
    sql: 'SELECT j.id, a.fence FROM jobs j JOIN attempts a ON a.job_id = j.id WHERE a.fence > j.fence',
  },
  {
    name: 'I8: two runs of a job owned it at the same time, or fences do not grow with time',
    sql: `SELECT id, fence FROM (
        SELECT job_id AS id, fence, started_at, lag(finished_at) OVER (PARTITION BY job_id ORDER BY fence) AS previous FROM attempts
      ) a WHERE started_at < previous`,
  },
  {
    name: 'I8: a claim has no attempt that says how it ended, or an attempt has no claim',
    sql: `SELECT id FROM jobs j WHERE ${isFinal} AND ${eventsOf(`e.type = 'job.active'`)} <> ${attemptsOf('true')}`,
  },
  {
    name: 'I9: attempts_used or crashes are not what the attempts say, or are over their limit',
    // A retry by hand forgets what was counted before it.
    sql: `SELECT id, attempts_used, crashes FROM jobs j WHERE attempts_used > attempts_max OR ${retries} = 0 AND (attempts_used <> ${attemptsOf(`a.outcome IN ('succeeded', 'failed', 'crashed')`)} OR crashes <> ${attemptsOf(`a.outcome = 'crashed'`)})`,
  },
  {
    name: 'I9: a job whose last attempt crashed failed with another code than "crashed"',
    sql: `SELECT id, error FROM jobs j WHERE state = 'failed' AND error->>'code' NOT IN ('crashed', 'expired')
      AND 'crashed' = (SELECT outcome FROM attempts a WHERE a.job_id = j.id ORDER BY fence DESC LIMIT 1)`,
  },
  {
    name: 'I4: an idempotency key stands for a job that is not there',
    sql: `SELECT k.key, k.resource_id AS id FROM idempotency_keys k LEFT JOIN jobs j ON j.id = k.resource_id
      WHERE k.resource = 'job' AND j.id IS NULL`,
  },
  {
    name: 'I7: a job succeeded, and the end of one of its effects is not recorded',
    sql: `SELECT j.id, e.key FROM jobs j JOIN effects e ON e.job_id = j.id WHERE j.state = 'succeeded' AND e.finished_at IS NULL`,
  },
  {
    name: 'I10: the events of a job tell of a move that does not exist',
    // By id: an event gets its number after its row was locked, so these are in the order in which things happened.
    sql: `SELECT id, type, previous FROM (
        SELECT job_id AS id, type, lag(type) OVER (PARTITION BY job_id ORDER BY id) AS previous FROM events WHERE type = ANY('{${jobStates.map((state) => `job.${state}`).join(',')}}')
      ) e WHERE (coalesce(previous, ''), type) NOT IN (${movesSql})`,
  },
  {
    name: 'F57: a job ran before its time',
    sql: `SELECT j.id, j.options FROM jobs j JOIN attempts a ON a.job_id = j.id
      WHERE a.started_at < j.created_at + (j.options->>'delayMs')::float8 * interval '1 ms' OR a.started_at < (j.options->>'runAt')::timestamptz`,
  },
  {
    name: 'I11: a job that ended still holds its input files',
    sql: `SELECT j.id FROM jobs j JOIN job_inputs i ON i.job_id = j.id WHERE ${isFinal}`,
  },
  {
    name: 'I11: a file is pending, although nothing runs',
    sql: `SELECT id, job_id FROM files WHERE state = 'pending'`,
  },
  {
    name: 'I6: a job that did not succeed has an output file',
    sql: `SELECT f.id, j.state FROM files f JOIN jobs j ON j.id = f.job_id WHERE j.state <> 'succeeded'`,
  },
];

async function checkRows(db: Db, accepted: readonly string[]): Promise<string[]> {
  const problems: string[] = [];
  for (const { name, sql } of rowChecks) {
    const { rows } = await db.query<Record<string, unknown>>(sql, sql.includes('$1') ? [accepted] : []);
    for (const row of rows) problems.push(`${name}: ${JSON.stringify(row)}`);
  }
  return problems;
}

/** I6 and I11: every visible file has exactly the bytes that its row says, and no other bytes are stored. */
async function checkFiles({ dataDir }: ServiceWorld, db: Db): Promise<string[]> {
  const storage = createFsStorage({ dir: join(dataDir, 'files') });
  const { rows } = await db.query<{ id: string; size_bytes: number; sha256: string }>(
    `SELECT id, size_bytes, encode(sha256, 'hex') AS sha256 FROM files WHERE state = 'ready'`,
  );
  const problems: string[] = [];
  const known = new Set(rows.map((row) => row.id));
  for await (const { id } of storage.list()) {
    if (!known.has(id)) problems.push(`I11: bytes without a row: ${id}`);
  }
  for (const row of rows) {
    const hash = createHash('sha256');
    try {
      await pipeline(await storage.read(row.id), hash);
      if (hash.digest('hex') !== row.sha256) problems.push(`I6: other bytes than the row says: ${row.id}`);
    } catch (err) {
      problems.push(`I6: a file has a row and no bytes: ${row.id} (${String(err)})`);
    }
  }
  return problems;
}

/** I11: nothing is left on the disk or running. */
function checkLeftovers({ dataDir }: ServiceWorld): string[] {
  const list = (dir: string) => {
    try {
      return readdirSync(join(dataDir, dir));
    } catch {
      // Never made: nothing was stored, or no worker ran.
      return [];
    }
  };
  return [
    ...list('scratch').map((name) => `I11: a scratch directory of a worker that has ended: ${name}`),
    ...list('files/parts').map((name) => `I11: a part of a file: ${name}`),
    ...findTaskProcesses(dataDir).map(
      ({ pid, command }) => `I11: a process of a task is still running: ${pid} ${command}`,
    ),
  ];
}
