/**
 * Accepting jobs with a unique key. One transaction: take the keys (a row each, inserted or locked, so that whoever else
 * wants one waits), look at the jobs that have them as they are now, then make the jobs whose keys are free.
 *
 * The look is a statement of its own, after the locks: the one that waited for a lock would still see what was there before
 * the wait, and not the job that the other transaction made. Requests for other keys, and all without one, never come here.
 */
import { AppError } from '../errors.ts';
import { isHeld, isWaiting, type Holder, type UniqueKey } from '../domain/unique-key.ts';
import {
  acceptFlightsMax,
  createAcceptJobs,
  findAccepted,
  insertJobs,
  type Acceptance,
  type AcceptJobs,
  type NewJob,
} from './accept-jobs.ts';
import { plainArray, textArray } from './array-literal.ts';
import { createGroupCommit } from './group-commit.ts';
import { AmbiguousCommitError, inTransaction, type Db, type Queryable } from './pool.ts';

/** For jobs of any kind: those without a unique key are accepted as fast as if there were none. */
export function createAcceptAnyJobs(db: Db): AcceptJobs {
  const plain = createAcceptJobs(db);
  const unique = createGroupCommit<UniqueJob, Acceptance>({
    flush: (jobs) => acceptUniqueJobs(db, jobs),
    recover: (job, err) => findAccepted(db, job, err),
  });
  return {
    add: (job) => (hasUniqueKey(job) ? unique.add(job) : plain.add(job)),
    idle: async () => {
      await Promise.all([plain.idle(), unique.idle()]);
    },
  };
}

/** Connections that `createAcceptAnyJobs` uses at once. */
export const acceptConnectionsMax = acceptFlightsMax + 1;

interface UniqueJob extends NewJob {
  readonly uniqueKey: UniqueKey;
}

function hasUniqueKey(job: NewJob): job is UniqueJob {
  return job.uniqueKey !== undefined;
}

const triesMax = 3;

/** A group in a transaction of its own: the flush of a group commit. */
async function acceptUniqueJobs(db: Db, jobs: readonly UniqueJob[]): Promise<Acceptance[]> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await inTransaction(db, (client) => insertUniqueJobs(client, jobs));
    } catch (err) {
      // The group commit asks for each row when it sees that the connection was lost.
      if (err instanceof AmbiguousCommitError) throw err.cause;
      if (!(err instanceof OvertakenError)) throw err;
      if (tries === triesMax)
        throw new AppError('unavailable', err.message, { cause: err, retryAfterSeconds: 1 });
    }
  }
}

/** Inside a transaction: jobs of any kind, for callers that decide more than acceptance. */
export async function insertAnyJobs(client: Queryable, jobs: readonly NewJob[]): Promise<Acceptance[]> {
  const unique = jobs.filter(hasUniqueKey);
  if (unique.length === 0) return insertJobs(client, jobs);
  const plain = jobs.filter((job) => !hasUniqueKey(job));
  const answers = new Map<NewJob, Acceptance | undefined>();
  const uniqueAnswers = await insertUniqueJobs(client, unique);
  const plainAnswers = plain.length === 0 ? [] : await insertJobs(client, plain);
  for (const [index, job] of unique.entries()) answers.set(job, uniqueAnswers[index]);
  for (const [index, job] of plain.entries()) answers.set(job, plainAnswers[index]);
  return jobs.map((job) => answers.get(job) ?? { type: 'duplicate' });
}

/**
 * In the transaction in which an ended job becomes alive again: takes its unique key back, unless another job has it by now.
 * A key that only time ends (a throttle) says nothing about jobs that there are.
 * @returns the job that has it.
 */
export async function findOtherHolder(client: Queryable, job: KeyOfJob): Promise<string | undefined> {
  if (job.uniqueKey.until === 'expired') return undefined;
  const held = (await takeKeys(client, [job])).get(nameOf(job));
  if (held !== undefined && isHeld(held.holder)) return held.jobId;
  if (held !== undefined) await moveKeys(client, [job]);
  return undefined;
}

/**
 * The same for many jobs that are about to become alive again. Call it before they do, with their rows locked.
 * @returns those that do not get it back, each with the job that has it. Of several that want the same key the first gets it.
 */
export async function takeKeysBack(
  client: Queryable,
  jobs: readonly KeyOfJob[],
): Promise<Map<string, string>> {
  const firsts = new Map<string, KeyOfJob>();
  const held = new Map<string, string>();
  const wanted = jobs.filter((job) => job.uniqueKey.until !== 'expired');
  for (const job of wanted) if (!firsts.has(nameOf(job))) firsts.set(nameOf(job), job);
  const holders = await takeKeys(client, [...firsts.values()]);
  const moved: KeyOfJob[] = [];
  for (const [name, job] of firsts) {
    const holder = holders.get(name);
    if (holder !== undefined && isHeld(holder.holder)) held.set(job.id, holder.jobId);
    else if (holder !== undefined) moved.push(job);
  }
  if (moved.length > 0) await moveKeys(client, moved);
  for (const job of wanted) {
    const first = firsts.get(nameOf(job));
    if (first !== undefined && first !== job) held.set(job.id, held.get(first.id) ?? first.id);
  }
  return held;
}

/** The Idempotency-Key of a job was committed by another request a moment ago: the next try sees it. */
class OvertakenError extends Error {
  override name = 'OvertakenError';
}

async function insertUniqueJobs(client: Queryable, jobs: readonly UniqueJob[]): Promise<Acceptance[]> {
  const answers = new Map<UniqueJob, Acceptance>();
  const used = await listUsedKeys(client, jobs);
  const wanted = new Map<string, UniqueJob[]>();
  for (const job of jobs) {
    const idempotencyKey = job.idempotency && JSON.stringify([job.tenantId, job.idempotency.key]);
    if (idempotencyKey !== null && used.has(idempotencyKey)) {
      answers.set(job, { type: 'duplicate' });
      continue;
    }
    // Of several in this group the first counts, and the others are repetitions of it.
    if (idempotencyKey !== null) used.add(idempotencyKey);
    wanted.set(nameOf(job), [...(wanted.get(nameOf(job)) ?? []), job]);
  }
  const winners: UniqueJob[] = [];
  const losers: { job: UniqueJob; jobId: string }[] = [];
  const candidates = [...wanted.values()].map(chooseCandidate);
  const holders = await takeKeys(client, candidates);
  // In the order of the ids of the jobs that may be replaced, as everybody locks jobs.
  const idOf = (job: UniqueJob): string => holders.get(nameOf(job))?.jobId ?? '';
  for (const candidate of candidates.toSorted((a, b) => (idOf(a) < idOf(b) ? -1 : 1))) {
    const held = holders.get(nameOf(candidate));
    const group = wanted.get(nameOf(candidate)) ?? [];
    const isReplaced = held !== undefined && (await replaceWaiting(client, candidate, held));
    const isWon = held === undefined || (!isReplaced && isFree(candidate, held));
    const jobId = isWon ? candidate.id : held.jobId;
    if (isWon) winners.push(candidate);
    for (const job of group) {
      if (job === candidate && isWon) continue;
      losers.push({ job, jobId });
      answers.set(job, { type: 'held', jobId, isReplaced: job === candidate && isReplaced });
    }
  }
  const takenOver = winners.filter((job) => holders.has(nameOf(job)));
  if (takenOver.length > 0) await moveKeys(client, takenOver);
  if (winners.length > 0) {
    const accepted = await insertJobs(
      client,
      winners.map(({ uniqueKey: _taken, ...job }) => job),
    );
    for (const [index, job] of winners.entries()) {
      const acceptance = accepted[index];
      if (acceptance?.type !== 'accepted') throw new OvertakenError('Another request used the key just now.');
      answers.set(job, acceptance);
    }
  }
  await rememberLosers(client, losers);
  return jobs.map((job) => answers.get(job) ?? { type: 'duplicate' });
}

type KeyOfJob = Pick<UniqueJob, 'id' | 'tenantId' | 'task' | 'uniqueKey'>;

const nameOf = (job: KeyOfJob): string => JSON.stringify([job.tenantId, job.task, job.uniqueKey.key]);

/** Of requests for the same key in one group: the first wins; of a burst that is put off, the last one's input counts. */
function chooseCandidate(group: readonly UniqueJob[]): UniqueJob {
  const [first] = group;
  if (first === undefined) throw new Error('A key without a request.');
  return first.uniqueKey.debounce === null
    ? first
    : (group.findLast((job) => job.uniqueKey.debounce !== null) ?? first);
}

/** Those of the jobs' Idempotency-Keys that were used before. */
async function listUsedKeys(client: Queryable, jobs: readonly UniqueJob[]): Promise<Set<string>> {
  const keyed = jobs.filter((job) => job.idempotency !== null);
  if (keyed.length === 0) return new Set();
  const { rows } = await client.query<{ tenant_id: string; key: string }>(
    `SELECT i.tenant_id, i.key FROM unnest($1::text[], $2::text[]) AS w(tenant_id, key)
     JOIN idempotency_keys i ON i.tenant_id = w.tenant_id AND i.key = w.key`,
    [keyed.map((job) => job.tenantId), keyed.map((job) => job.idempotency?.key ?? '')],
  );
  return new Set(rows.map((row) => JSON.stringify([row.tenant_id, row.key])));
}

interface KeyHolder {
  readonly jobId: string;
  readonly holder: Holder | undefined;
}

/**
 * Inserts or locks the row of each key, in their order, so that two groups wait for each other instead of deadlocking.
 * @returns those that had a row before, by `nameOf`, with what has them.
 */
async function takeKeys(client: Queryable, jobs: readonly KeyOfJob[]): Promise<Map<string, KeyHolder>> {
  if (jobs.length === 0) return new Map();
  // The update changes nothing: it locks, and makes RETURNING tell who has the key.
  const { rows: taken } = await client.query<{
    tenant_id: string;
    task: string;
    key: string;
    job_id: string;
  }>({
    name: 'unique-take',
    text: `INSERT INTO unique_keys AS u (tenant_id, task, key, job_id, until, held_until)
      SELECT w.tenant_id, w.task, w.key, w.job_id, w.until, clock_timestamp() + w.ttl_ms * interval '1 ms'
      FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::bigint[])
        AS w(tenant_id, task, key, job_id, until, ttl_ms)
      ORDER BY w.tenant_id, w.task, w.key
      ON CONFLICT (tenant_id, task, key) DO UPDATE SET key = u.key
      RETURNING u.tenant_id, u.task, u.key, u.job_id`,
    values: columnsOf(jobs),
  });
  const own = new Set(jobs.map((job) => job.id));
  const others = taken.filter((row) => !own.has(row.job_id));
  if (others.length === 0) return new Map();
  const { rows } = await client.query<{
    tenant_id: string;
    task: string;
    key: string;
    job_id: string;
    until: Holder['until'];
    is_expired: boolean;
    state: Holder['state'] | null;
    has_started: boolean;
  }>({
    name: 'unique-look',
    text: `SELECT u.tenant_id, u.task, u.key, u.job_id, u.until, coalesce(u.held_until <= clock_timestamp(), false) AS is_expired,
        j.state, j.started_at IS NOT NULL AS has_started
      FROM unnest($1::text[], $2::text[], $3::text[]) AS w(tenant_id, task, key)
      JOIN unique_keys u ON u.tenant_id = w.tenant_id AND u.task = w.task AND u.key = w.key
      LEFT JOIN jobs j ON j.id = u.job_id`,
    values: [others.map((row) => row.tenant_id), others.map((row) => row.task), others.map((row) => row.key)],
  });
  return new Map(
    rows.map((row) => [
      JSON.stringify([row.tenant_id, row.task, row.key]),
      {
        jobId: row.job_id,
        holder:
          row.state === null
            ? undefined
            : {
                until: row.until,
                isExpired: row.is_expired,
                state: row.state,
                hasStarted: row.has_started,
              },
      },
    ]),
  );
}

/** What waits is replaced or, when that came a moment too late, is not in the way of a burst that is put off. */
function isFree(candidate: UniqueJob, { holder }: KeyHolder): boolean {
  const wasMissed = candidate.uniqueKey.debounce !== null && holder !== undefined && isWaiting(holder);
  return wasMissed || !isHeld(holder);
}

async function moveKeys(client: Queryable, jobs: readonly KeyOfJob[]): Promise<void> {
  await client.query({
    name: 'unique-move',
    text: `UPDATE unique_keys u SET job_id = w.job_id, until = w.until, held_until = clock_timestamp() + w.ttl_ms * interval '1 ms'
      FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::bigint[])
        AS w(tenant_id, task, key, job_id, until, ttl_ms)
      WHERE u.tenant_id = w.tenant_id AND u.task = w.task AND u.key = w.key`,
    values: columnsOf(jobs),
  });
}

function columnsOf(jobs: readonly KeyOfJob[]): string[] {
  return [
    textArray(jobs.map((job) => job.tenantId)),
    textArray(jobs.map((job) => job.task)),
    textArray(jobs.map((job) => job.uniqueKey.key)),
    plainArray(jobs.map((job) => job.id)),
    textArray(jobs.map((job) => job.uniqueKey.until)),
    plainArray(jobs.map((job) => job.uniqueKey.ttlMs ?? 'NULL')),
  ];
}

// The job may be claimed or cancelled at this moment: then no row is found, and the request makes a job of its own. What was
// handed to Redis is taken back by its fence.
const replaceSql = `
WITH replaced AS (
  UPDATE jobs j SET input = $2, fence = j.fence + 1, dispatched_at = NULL, parked_rank_at = NULL,
    state = CASE WHEN j.state = 'blocked' THEN j.state WHEN due.at > now() THEN 'scheduled' ELSE 'queued' END,
    run_at = due.at, rank_at = due.at - j.priority * interval '60 s',
    start_before = due.at + (j.options->>'startWithinMs')::float8 * interval '1 ms'
  FROM jobs old CROSS JOIN LATERAL (SELECT
    least(now() + $3 * interval '1 ms', old.created_at + $4 * interval '1 ms')) AS due(at)
  WHERE old.id = $1 AND j.id = old.id AND j.started_at IS NULL AND j.state IN ('scheduled', 'blocked', 'queued')
  RETURNING j.id, j.tenant_id, j.state, old.state AS old_state
), file AS (
  INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, expires_at)
  SELECT f.id, r.tenant_id, 'ready', f.name, f."mediaType", f."sizeBytes", decode(f.sha256, 'hex'),
    now() + f."retentionMs" * interval '1 ms'
  FROM replaced r CROSS JOIN jsonb_to_recordset($5::jsonb) AS f(
    id uuid, name text, "mediaType" text, "sizeBytes" bigint, sha256 text, "retentionMs" bigint)
), forgotten AS (
  DELETE FROM job_inputs i USING replaced r WHERE i.job_id = r.id AND i.file_id <> ALL($6::uuid[])
), reference AS (
  INSERT INTO job_inputs (job_id, file_id, tenant_id)
  SELECT r.id, f, r.tenant_id FROM replaced r CROSS JOIN unnest($6::uuid[]) AS f ON CONFLICT DO NOTHING
), event AS (
  INSERT INTO events (tenant_id, job_id, type) SELECT tenant_id, id, 'job.' || state FROM replaced WHERE state <> old_state
)
SELECT id FROM replaced`;

/** Debounce: the job that waits gets the newer input and more time, within its longest wait. @returns whether it did. */
async function replaceWaiting(client: Queryable, job: UniqueJob, held: KeyHolder): Promise<boolean> {
  const { debounce } = job.uniqueKey;
  if (debounce === null || held.holder === undefined || !isWaiting(held.holder)) return false;
  const { rowCount } = await client.query({
    name: 'unique-replace',
    text: replaceSql,
    values: [
      held.jobId,
      JSON.stringify(job.input),
      debounce.delayMs,
      debounce.maxWaitMs,
      JSON.stringify(job.newFiles),
      job.inputFiles,
    ],
  });
  return rowCount === 1;
}

/** A repetition of a request that made no job is answered with the job that the first one was answered with. */
async function rememberLosers(
  client: Queryable,
  losers: readonly { job: UniqueJob; jobId: string }[],
): Promise<void> {
  const keyed = losers.filter(({ job }) => job.idempotency !== null);
  if (keyed.length === 0) return;
  const { rowCount } = await client.query(
    `INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id, is_duplicate)
     SELECT w.tenant_id, w.key, decode(w.fingerprint, 'hex'), 'job', w.job_id, true
     FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[]) AS w(tenant_id, key, fingerprint, job_id)
     ORDER BY w.tenant_id, w.key ON CONFLICT DO NOTHING`,
    [
      keyed.map(({ job }) => job.tenantId),
      keyed.map(({ job }) => job.idempotency?.key ?? ''),
      keyed.map(({ job }) => job.idempotency?.fingerprint ?? ''),
      keyed.map(({ jobId }) => jobId),
    ],
  );
  if (rowCount !== keyed.length) throw new OvertakenError('Another request used the key just now.');
}
