/**
 * Bugs to be planted, one at a time, in a copy of the tree: each takes one guard away, and each must turn the torture red.
 * A guard that can be taken away unnoticed is not watched by anything here.
 */
export interface Plant {
  readonly name: string;
  /** The invariants of which at least one has to be reported; something else may be wrong for other reasons. */
  readonly breaks: readonly string[];
  readonly edits: readonly Edit[];
  /** The faults that bring it to light; the fewer, the sooner. */
  readonly faults: readonly string[];
  /** The kinds of jobs that it harms. Default: all. */
  readonly kinds?: readonly string[];
  /** Default 0.4, and half of it for bugs that show by themselves. */
  readonly minutes?: number;
  /** Default 12. */
  readonly rate?: number;
}

export interface Edit {
  readonly file: string;
  /** Must be there exactly once. */
  readonly text: string;
  readonly by: string;
}

/** Breaks nothing: for bugs that show by themselves. */
export const harmless = ['redis-forget-scripts'];

export const plants: readonly Plant[] = [
  {
    name: 'settle-without-fence',
    breaks: ['I3', 'I8', 'I9'],
    edits: [
      {
        file: 'shared/db/settle-runs.ts',
        text: `WHERE j.id = i.id AND j.fence = i.fence AND (j.state = 'active') IS TRUE AND j.worker_id = i.worker_id`,
        by: `WHERE j.id = i.id AND (j.state = 'active') IS TRUE`,
      },
    ],
    kinds: ['slow post'],
    faults: ['freeze-worker-until-superseded'],
    minutes: 1,
    // What the slots of a worker can do in time while others stand still.
    rate: 4,
  },
  {
    name: 'claim-without-fence-and-state',
    breaks: ['I3', 'I8', 'I9'],
    edits: [
      {
        file: 'shared/db/claim-jobs.ts',
        text: `WHERE j.id = d.id AND j.fence = d.fence AND j.state = 'queued' AND j.task = ANY($4)`,
        by: `WHERE j.id = d.id AND j.task = ANY($4)`,
      },
    ],
    faults: ['kill-worker', 'redis-freeze'],
  },
  {
    name: 'claim-without-raising-the-fence',
    breaks: ['I2'],
    edits: [
      {
        file: 'shared/db/claim-jobs.ts',
        text: `SET state = 'active', fence = j.fence + 1,`,
        by: `SET state = 'active', fence = j.fence,`,
      },
    ],
    faults: harmless,
  },
  {
    name: 'acknowledged-before-the-commit',
    breaks: ['I1', 'I4'],
    edits: [
      {
        file: 'api/accept-job.ts',
        text: `const acceptance = await deps.accepts.add(job);`,
        by: `const acceptance: any = { type: 'accepted', createdAt: new Date(), isDispatched: true };
    void deps.accepts.add(job).catch(() => undefined);`,
      },
    ],
    faults: ['postgres-immediate-stop', 'kill-api'],
  },
  {
    name: 'accept-guesses-after-a-lost-answer',
    breaks: ['I6'],
    edits: [
      {
        file: 'shared/db/accept-jobs.ts',
        text: 'recover: (job, err) => findAccepted(db, job, err),',
        by: 'recover: async (_job, err) => { throw err; },',
      },
    ],
    kinds: ['file'],
    faults: ['postgres-answer-lost'],
    minutes: 1,
    rate: 20,
  },
  {
    name: 'key-inserted-without-asking',
    breaks: ['I4'],
    edits: [
      {
        file: 'shared/db/accept-jobs.ts',
        text: 'WHERE idempotency_key IS NULL OR id IN (SELECT resource_id FROM keyed)',
        by: 'WHERE true',
      },
    ],
    faults: harmless,
  },
  {
    name: 'no-repair',
    breaks: ['I2'],
    edits: [
      {
        file: 'worker/services/feeder.ts',
        text: 'const missing = await deliveries.listMissing(await listDispatched(db, queues));',
        by: 'const missing: Awaited<ReturnType<typeof listDispatched>> = [];',
      },
    ],
    faults: ['redis-flushall', 'redis-kill-and-lose-disk'],
  },
  {
    name: 'reaper-ignores-leases',
    breaks: ['I9'],
    edits: [
      {
        file: 'shared/db/workers.ts',
        text: 'WHERE reaped_at IS NULL AND lease_until < $1',
        by: 'WHERE reaped_at IS NULL AND $1::timestamptz IS NOT NULL',
      },
    ],
    faults: harmless,
  },
  {
    name: 'reaper-leaves-jobs-of-the-dead',
    breaks: ['I2'],
    edits: [{ file: 'shared/db/workers.ts', text: 'LIMIT 500', by: 'LIMIT 0' }],
    faults: ['kill-worker'],
  },
  {
    name: 'settle-guesses-after-a-lost-answer',
    breaks: ['I6'],
    edits: [
      {
        file: 'shared/db/settle-runs.ts',
        text: 'recover: (run, err) => recover(db, run, err),',
        by: 'recover: async () => undefined,',
      },
    ],
    kinds: ['file'],
    faults: ['postgres-answer-lost'],
    minutes: 1,
    rate: 20,
  },
  {
    name: 'claims-with-a-lost-answer-stay',
    breaks: ['I2'],
    edits: [
      {
        file: 'worker/services/lease-keeper.ts',
        text: 'if (unknown.length > 0)\n      await handBackRuns(',
        by: 'if (unknown.length < 0)\n      await handBackRuns(',
      },
    ],
    faults: ['postgres-answer-lost', 'postgres-terminate-all'],
    minutes: 1,
  },
  {
    name: 'cancel-does-not-reach-the-run',
    breaks: ['I2'],
    edits: [
      {
        file: 'worker/services/lease-keeper.ts',
        text: `for (const key of renewal.cancelled) stop(key, 'cancelled');`,
        by: '',
      },
    ],
    faults: harmless,
  },
  {
    name: 'outputs-are-not-discarded',
    breaks: ['I11'],
    edits: [
      {
        file: 'worker/output-store.ts',
        text: 'if (ids.length === 0) return;',
        by: 'if (ids.length >= 0) return;',
      },
      {
        file: 'shared/db/retention.ts',
        text: `WHERE f.state = 'pending' AND (j.state <> 'active' OR j.started_at > f.created_at) LIMIT $1)`,
        by: 'WHERE false LIMIT $1)',
      },
    ],
    kinds: ['file'],
    faults: ['freeze-worker-beyond-lease'],
    minutes: 1,
    rate: 15,
  },
  {
    name: 'orphans-judged-by-the-clock-of-the-process',
    breaks: ['I6'],
    edits: [
      {
        file: 'worker/services/janitor.ts',
        text: 'const ageMs = olderThanMs + (await measureLead());',
        by: 'const ageMs = olderThanMs;',
      },
      // Looks all the time instead of once in a quarter of an hour: some upload is then always between its bytes and its row.
      { file: 'worker/services/janitor.ts', text: 'const everyMs = 60_000;', by: 'const everyMs = 100;' },
      {
        file: 'worker/services/janitor.ts',
        text: 'const sweepEveryMs = 15 * 60_000;',
        by: 'const sweepEveryMs = 0;',
      },
    ],
    kinds: ['file'],
    faults: ['shift-clock-worker'],
    minutes: 0.7,
    rate: 10,
  },
  {
    name: 'inputs-are-not-released',
    breaks: ['I11'],
    edits: [
      {
        file: 'shared/db/settle-runs.ts',
        text: `WHERE i.job_id = ended.id AND ended.state IN ('succeeded', 'failed', 'cancelled')`,
        by: 'WHERE i.job_id = ended.id AND false',
      },
    ],
    faults: harmless,
  },
  {
    name: 'due-too-early',
    breaks: ['I6'],
    edits: [
      {
        file: 'shared/db/feed-queues.ts',
        text: `AND state IN ('scheduled', 'retrying') AND run_at <= now()`,
        by: `AND state IN ('scheduled', 'retrying') AND run_at <= now() + interval '3 s'`,
      },
    ],
    faults: harmless,
  },
  {
    name: 'attempts-are-not-counted',
    breaks: ['I9'],
    edits: [
      {
        file: 'shared/db/settle-runs.ts',
        text: 'error = i.error, attempts_used = i.attempts_used,',
        by: 'error = i.error, attempts_used = j.attempts_used,',
      },
    ],
    faults: harmless,
  },
  {
    name: 'unique-keys-are-never-held',
    breaks: ['I15'],
    edits: [
      {
        file: 'shared/db/unique-jobs.ts',
        text: 'return wasMissed || !isHeld(holder);',
        by: 'return wasMissed || holder !== undefined;',
      },
    ],
    kinds: ['unique key'],
    faults: harmless,
    rate: 6,
  },
  {
    name: 'the-wrong-job-is-told-to-hold-a-unique-key',
    // The job that it is told of does not even exist.
    breaks: ['I5', 'I15'],
    edits: [
      {
        file: 'shared/db/unique-jobs.ts',
        text: 'const jobId = isWon ? candidate.id : held.jobId;',
        by: 'const jobId = candidate.id;',
      },
    ],
    kinds: ['unique key'],
    faults: harmless,
    rate: 6,
  },
  {
    name: 'concurrency-keys-are-not-counted',
    breaks: ['I15'],
    edits: [
      {
        file: 'shared/db/feed-keys.ts',
        text: 'least(s.concurrency_max - k.busy, k.rate_room) AS key_room',
        by: 'least(s.concurrency_max, k.rate_room) AS key_room',
      },
    ],
    kinds: ['concurrency key'],
    faults: harmless,
  },
  {
    name: 'starts-count-from-their-dispatch',
    breaks: ['I15'],
    edits: [
      {
        file: 'shared/db/feed-rates.ts',
        text: 'WHERE r.queue = $1 AND r.started_at IS NULL\n), taken_back',
        by: 'WHERE false\n), taken_back',
      },
      {
        file: 'shared/db/feed-rates.ts',
        text: 'INSERT INTO rate_starts (queue, job_id, fence, tenant_id, concurrency_key)\n      SELECT $1, *',
        by: 'INSERT INTO rate_starts (queue, job_id, fence, tenant_id, concurrency_key, started_at)\n      SELECT $1, *, now()',
      },
    ],
    kinds: ['rate'],
    faults: ['freeze-worker', 'redis-freeze'],
    minutes: 1,
  },
  {
    name: 'children-do-not-wait',
    // They take from results that are not there, too.
    breaks: ['I6', 'I17'],
    edits: [
      {
        file: 'shared/db/migrations/0009-take-parts-once.sql',
        text: 'AND NOT EXISTS (SELECT FROM job_dependencies d WHERE d.child_id = c.id AND d.parent_state IS NULL);',
        by: ';',
      },
    ],
    kinds: ['workflow'],
    faults: harmless,
  },
  {
    name: 'batches-are-not-waited-for',
    breaks: ['I17'],
    edits: [
      {
        file: 'shared/db/complete-batches.ts',
        text: `j.state IN ('scheduled', 'blocked', 'queued', 'active', 'retrying'))`,
        by: `j.state IN ('scheduled', 'blocked'))`,
      },
    ],
    kinds: ['batch'],
    faults: harmless,
  },
  {
    name: 'missed-ticks-are-forgotten',
    breaks: ['I16'],
    edits: [
      {
        file: 'shared/domain/misfire.ts',
        text: 'return ticks.newest({ after, until: now, count: misfireJobsMax });\n  }',
        by: 'return ticks.newest({ after, until: now, count: 1 });\n  }',
      },
    ],
    kinds: ['schedule'],
    faults: ['postgres-unreachable', 'postgres-freeze'],
  },
  {
    name: 'a-descriptor-leaks-with-each-file',
    breaks: ['I13'],
    edits: [
      {
        file: 'shared/storage/fs-storage.ts',
        text: `crashPoint('storage.before-sync');`,
        by: `((globalThis as any).leak ??= []).push(await open(part, 'r'));`,
      },
    ],
    kinds: ['file'],
    faults: harmless,
  },
  {
    name: 'a-descriptor-leaks-with-each-job',
    breaks: ['I13'],
    edits: [
      {
        file: 'worker/run-job.ts',
        text: `crashPoint('run.after-claim');`,
        by: `((globalThis as any).leak ??= []).push((await import('node:fs')).openSync('/dev/null', 'r'));`,
      },
    ],
    kinds: ['inline'],
    faults: harmless,
    minutes: 0.4,
    rate: 20,
  },
  {
    name: 'memory-leaks-with-each-job',
    breaks: ['I13'],
    edits: [
      {
        file: 'worker/run-job.ts',
        text: `crashPoint('run.after-claim');`,
        by: `((globalThis as any).leak ??= []).push(Buffer.alloc(3 << 20, 1));`,
      },
    ],
    kinds: ['inline'],
    faults: harmless,
    minutes: 0.6,
    rate: 30,
  },
  {
    name: 'other-tenants-see-jobs',
    breaks: ['I12'],
    edits: [
      {
        file: 'shared/db/jobs.ts',
        text: 'SELECT ${columns} FROM jobs WHERE tenant_id = $1 AND id = $2',
        by: 'SELECT ${columns} FROM jobs WHERE $1::text IS NOT NULL AND id = $2',
      },
    ],
    faults: harmless,
  },
];
