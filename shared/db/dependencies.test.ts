import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { newJob } from '#test/support/new-job.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { isFinal, type JobState, type Settlement } from '../domain/job.ts';
import { workflowInputBytesMax } from '../domain/workflow.ts';
import { uuidv7 } from '../ids.ts';
import { createAcceptJobs, type AcceptJobs } from './accept-jobs.ts';
import { createClaimJobs } from './claim-jobs.ts';
import {
  isMissingParentError,
  releaseStranded,
  settleDependants,
  type NewDependency,
} from './dependencies.ts';
import { ensureQueues } from './feed-queues.ts';
import { deleteJob } from './delete-job.ts';
import { expireJobs } from './expire-jobs.ts';
import { deleteFile } from './files.ts';
import { cancelJob, findJob } from './jobs.ts';
import { createHotDb, type Db } from './pool.ts';
import { purgeJobs } from './retention.ts';
import { retryJob } from './retry-job.ts';
import { createSettleRuns } from './settle-runs.ts';
import { reapDeadWorkers, registerWorker, type OwnedRun } from './workers.ts';

let world: World;
let db: Db;
let accepts: AcceptJobs;
const workerId = uuidv7();

beforeEach(async () => {
  world = await createWorld();
  // As in a worker.
  db = createHotDb({ url: world.databaseUrl, size: 8, timeoutMs: 20_000, name: 'test' });
  accepts = createAcceptJobs(db);
  await ensureQueues(db, ['q']);
  await register(workerId);
});
afterEach(async () => {
  await db.end();
  await world.dispose();
});

function register(id: string): Promise<void> {
  return registerWorker(
    db,
    { id, host: 'h', pid: 1, version: '0', slots: { q: 10 }, isolation: 'process' },
    600_000,
  );
}

const settlements = {
  succeeded: {
    state: 'succeeded',
    attemptsUsed: 1,
    crashes: 0,
    delayMs: 0,
    error: undefined,
    outcome: 'succeeded',
  },
  failed: {
    state: 'failed',
    attemptsUsed: 1,
    crashes: 0,
    delayMs: 0,
    error: { code: 'task-failed', message: 'no', retryable: true },
    outcome: 'failed',
  },
} satisfies Record<string, Settlement>;

const on = (parentId: string, how: 'success' | 'end' = 'success'): NewDependency => ({
  parentId,
  on: how,
  refs: [],
});

async function accept(...dependsOn: NewDependency[]): Promise<string> {
  const job = newJob({ dependsOn });
  await accepts.add(job);
  return job.id;
}

async function claim(id: string, worker = workerId): Promise<OwnedRun | undefined> {
  const row = await findJob(db, 'default', id);
  const claims = createClaimJobs(db, { id: worker, tasks: ['t'] });
  const job = await claims.add({ jobId: id, fence: row?.fence ?? 0 });
  return job === undefined ? undefined : { jobId: id, fence: job.fence, workerId: worker };
}

async function run(id: string, how: keyof typeof settlements, result: unknown = { ok: true }): Promise<void> {
  const claimed = await claim(id);
  if (claimed === undefined) throw new Error(`The job ${id} could not be claimed.`);
  const settles = createSettleRuns(db);
  await settles.add({ ...claimed, settlement: settlements[how], result, outputs: [] });
}

async function stateOf(id: string): Promise<JobState | undefined> {
  return (await findJob(db, 'default', id))?.state;
}

async function listEvents(id: string): Promise<string[]> {
  const { rows } = await db.query<{ type: string }>('SELECT type FROM events WHERE job_id = $1 ORDER BY id', [
    id,
  ]);
  return rows.map((row) => row.type);
}

describe('a job that waits for others', () => {
  test('is blocked, cannot be claimed, and is queued in the transaction that ends the last of them', async () => {
    const [first, second] = [await accept(), await accept()];
    const child = await accept(on(first), on(second));
    expect(await stateOf(child)).toBe('blocked');
    expect(await claim(child)).toBeUndefined();
    await run(first, 'succeeded');
    expect(await stateOf(child)).toBe('blocked');
    await run(second, 'succeeded');
    expect(await stateOf(child)).toBe('queued');
    expect(await listEvents(child)).toEqual(['job.blocked', 'job.queued']);
  });

  test.each(['failed', 'cancelled'] as const)(
    'is cancelled when one of them %s, says which, and so is everything downstream',
    async (how) => {
      const [first, second] = [await accept(), await accept()];
      const child = await accept(on(first), on(second));
      const grandchild = await accept(on(child));
      const tolerant = await accept(on(child, 'end'));
      if (how === 'failed') await run(first, 'failed');
      else await cancelJob(db, 'default', first, null);
      expect(await findJob(db, 'default', child)).toMatchObject({
        state: 'cancelled',
        error: { code: 'parent-failed', message: expect.stringContaining(first), retryable: false },
      });
      expect(await findJob(db, 'default', grandchild)).toMatchObject({
        state: 'cancelled',
        error: { message: `It waited for the job ${child}, which was cancelled.` },
      });
      expect(await stateOf(tolerant)).toBe('queued');
      expect(await listEvents(child)).toEqual(['job.blocked', 'job.cancelled']);
      await run(second, 'succeeded');
      expect(await stateOf(child)).toBe('cancelled');
    },
  );

  test('runs after any end of a parent where it says so', async () => {
    const [parent, other] = [await accept(), await accept()];
    const child = await accept(on(parent, 'end'), on(other, 'end'));
    await run(parent, 'failed');
    expect(await stateOf(child)).toBe('blocked');
    await cancelJob(db, 'default', other, null);
    expect(await stateOf(child)).toBe('queued');
  });

  test('does not wait for what had ended before', async () => {
    const [good, bad, open] = [await accept(), await accept(), await accept()];
    await run(good, 'succeeded');
    await run(bad, 'failed');
    expect(await stateOf(await accept(on(good)))).toBe('queued');
    expect(await stateOf(await accept(on(good), on(bad, 'end')))).toBe('queued');
    expect(await stateOf(await accept(on(open), on(bad)))).toBe('cancelled');
    expect(await stateOf(await accept(on(good), on(open)))).toBe('blocked');
  });

  test('counts its delay from then on, and keeps its time', async () => {
    const parent = await accept();
    const delayed = newJob({ dependsOn: [on(parent)], delayMs: 3_600_000, options: { delayMs: 3_600_000 } });
    const at = new Date(Date.now() + 7_200_000).toISOString();
    const timed = newJob({ dependsOn: [on(parent)], runAt: at, options: { runAt: at } });
    await Promise.all([accepts.add(delayed), accepts.add(timed)]);
    expect([await stateOf(delayed.id), await stateOf(timed.id)]).toEqual(['blocked', 'blocked']);
    await run(parent, 'succeeded');
    const { rows } = await db.query<{ is_kept: boolean }>(
      `SELECT d.run_at = p.finished_at + interval '1 hour' AND d.state = 'scheduled' AS is_kept
       FROM jobs d CROSS JOIN jobs p WHERE d.id = $1 AND p.id = $2`,
      [delayed.id, parent],
    );
    expect(rows).toEqual([{ is_kept: true }]);
    expect(await findJob(db, 'default', timed.id)).toMatchObject({
      state: 'scheduled',
      run_at: new Date(at),
    });
  });

  test('moves on when the reaper ends its parent', async () => {
    const dead = uuidv7();
    await register(dead);
    const parent = await accept();
    const [child, tolerant] = [await accept(on(parent)), await accept(on(parent, 'end'))];
    await claim(parent, dead);
    await db.query(`UPDATE workers SET lease_until = now() - interval '1 s' WHERE id = $1`, [dead]);
    const policy = {
      crashesMax: 1,
      onCrash: 'fail' as const,
      backoff: { type: 'fixed' as const, delayMs: 1, maxMs: 1 },
    };
    await reapDeadWorkers(db, () => policy, new Date());
    expect([await stateOf(parent), await stateOf(child), await stateOf(tolerant)]).toEqual([
      'failed',
      'cancelled',
      'queued',
    ]);
  });

  test('is refused when one of them does not exist or is another tenant’s, and takes no other with it', async () => {
    const foreign = newJob({ tenantId: 'other' });
    await db.query(`INSERT INTO tenants (id) VALUES ('other')`);
    await accepts.add(foreign);
    const parent = await accept();
    const answers = await Promise.allSettled([
      accept(on(uuidv7())),
      accept(on(foreign.id)),
      accept(),
      accept(on(parent)),
    ]);
    expect(answers.map((answer) => answer.status)).toEqual([
      'rejected',
      'rejected',
      'fulfilled',
      'fulfilled',
    ]);
    for (const answer of answers.slice(0, 2))
      expect(answer.status === 'rejected' && isMissingParentError(answer.reason)).toBe(true);
  });

  test('a parent is not purged while it waits', async () => {
    const [parent, open] = [await accept(), await accept()];
    const child = await accept(on(parent), on(open));
    await run(parent, 'succeeded');
    await db.query(`UPDATE jobs SET expires_at = now() - interval '1 s' WHERE id = $1`, [parent]);
    expect(await purgeJobs(db, 10)).toMatchObject({ jobs: 0 });
    await cancelJob(db, 'default', child, null);
    expect(await purgeJobs(db, 10)).toMatchObject({ jobs: 1 });
  });
});

describe('whatever happens at the same moment', () => {
  test('a parent that ends while its children are accepted strands none of them', async () => {
    const others = [0, 1, 2].map(() => createAcceptJobs(db));
    const children: { id: string; isGood: boolean }[] = [];
    for (let round = 0; round < 40; round += 1) {
      const [good, bad] = [await accept(), await accept()];
      const fresh = Array.from({ length: 12 }, (_, index) => ({
        isGood: index % 2 === 0,
        job: newJob({ dependsOn: [on(index % 2 === 0 ? good : bad)] }),
      }));
      await Promise.all([
        run(good, 'succeeded'),
        run(bad, 'failed'),
        ...fresh.map(({ job }, index) => others[index % others.length]?.add(job)),
      ]);
      children.push(...fresh.map(({ job, isGood }) => ({ id: job.id, isGood })));
    }
    const states = await Promise.all(children.map(({ id }) => stateOf(id)));
    expect(states).toEqual(children.map(({ isGood }) => (isGood ? 'queued' : 'cancelled')));
  });

  test('parents that end at the same time release their child once', async () => {
    const parents = await Promise.all(Array.from({ length: 60 }, () => accept()));
    const child = await accept(...parents.map((id) => on(id)));
    await Promise.all(parents.map((id) => run(id, 'succeeded')));
    expect(await listEvents(child)).toEqual(['job.blocked', 'job.queued']);
  });

  test('in any graph, with any failures, every job ends as it should and none runs before its parents have ended', async () => {
    const graphs = fc.integer({ min: 1, max: 25 }).chain((size) =>
      fc.tuple(
        ...Array.from({ length: size }, (_, index) =>
          fc.record({
            outcome: fc.constantFrom('succeeded', 'succeeded', 'succeeded', 'failed', 'cancel'),
            edges: fc.uniqueArray(
              fc.record({
                parent: fc.nat(Math.max(0, index - 1)),
                how: fc.constantFrom('success' as const, 'end' as const),
              }),
              { maxLength: index === 0 ? 0 : 4, selector: (edge) => edge.parent },
            ),
            // Accepted before the work begins, or while it goes on.
            isLate: fc.boolean(),
          }),
        ),
      ),
    );
    await fc.assert(
      fc.asyncProperty(graphs, async (nodes) => {
        const jobs = nodes.map(() => uuidv7());
        const idOf = (index: number): string => jobs[index] ?? '';
        const expected: JobState[] = [];
        for (const node of nodes) {
          const isDoomed = node.edges.some(
            (edge) => edge.how === 'success' && expected[edge.parent] !== 'succeeded',
          );
          const own = node.outcome === 'cancel' ? 'cancelled' : (node.outcome as JobState);
          expected.push(isDoomed ? 'cancelled' : own);
        }
        const add = (index: number): Promise<unknown> =>
          accepts.add(
            newJob({
              id: idOf(index),
              dependsOn: (nodes[index]?.edges ?? []).map((edge) => on(idOf(edge.parent), edge.how)),
            }),
          );
        const firstLate = nodes.findIndex((node) => node.isLate);
        const early = firstLate === -1 ? nodes.length : firstLate;
        for (let index = 0; index < early; index += 1) await add(index);
        let isAccepted = false;
        const accepting = (async () => {
          for (let index = early; index < nodes.length; index += 1) await add(index);
          isAccepted = true;
        })();

        const work = async (parity: number): Promise<void> => {
          for (;;) {
            const { rows } = await db.query<{ id: string; state: JobState }>(
              'SELECT id, state FROM jobs WHERE id = ANY($1)',
              [jobs],
            );
            const ready = rows.filter((row) => row.state === 'queued');
            if (isAccepted && rows.length === jobs.length && rows.every((row) => isFinal(row.state))) return;
            await Promise.all(
              ready.map(async ({ id }) => {
                const outcome = nodes[jobs.indexOf(id)]?.outcome;
                if (outcome === 'cancel') return void (await cancelJob(db, 'default', id, null));
                if (jobs.indexOf(id) % 2 !== parity) return;
                const claimed = await claim(id);
                if (claimed === undefined) return;
                const settlement = settlements[outcome === 'failed' ? 'failed' : 'succeeded'];
                await createSettleRuns(db).add({ ...claimed, settlement, result: {}, outputs: [] });
              }),
            );
          }
        };
        await Promise.all([accepting, work(0), work(1)]);
        expect(await Promise.all(jobs.map(stateOf))).toEqual(expected);
        const { rows } = await db.query(
          `SELECT a.job_id FROM attempts a JOIN job_dependencies d ON d.child_id = a.job_id JOIN jobs p ON p.id = d.parent_id
           WHERE a.started_at < p.finished_at`,
        );
        expect(rows).toEqual([]);
        expect((await db.query('SELECT id FROM jobs WHERE has_dependants')).rows).toEqual([]);
      }),
      { numRuns: 25, endOnFailure: true },
    );
  });
});

describe('what one transaction does not do', () => {
  test('a chain of any length is cancelled whole when its first job fails', async () => {
    const length = 350;
    const ids: string[] = [];
    const jobs = Array.from({ length }, (_, index) => {
      const id = uuidv7();
      ids.push(id);
      return newJob({ id, dependsOn: index === 0 ? [] : [on(ids[index - 1] ?? '')] });
    });
    // One group: parents of the same group are found as well.
    await Promise.all(jobs.map((job) => accepts.add(job)));
    await run(ids[0] ?? '', 'failed');
    let rounds = 0;
    while ((await settleDependants(db)) > 0) rounds += 1;
    expect(rounds).toBeGreaterThan(0);
    const { rows } = await db.query('SELECT state, count(*) FROM jobs GROUP BY state ORDER BY state');
    expect(rows).toEqual([
      { state: 'failed', count: 1 },
      { state: 'cancelled', count: length - 1 },
    ]);
  });

  test('more dependants than one transaction tells are told by the next ones', async () => {
    const parent = await accept();
    await Promise.all(Array.from({ length: 6_000 }, () => accept(on(parent))));
    await run(parent, 'succeeded');
    while ((await settleDependants(db)) > 0);
    const { rows } = await db.query('SELECT state, count(*) FROM jobs GROUP BY state ORDER BY state');
    expect(rows).toEqual([
      { state: 'queued', count: 6_000 },
      { state: 'succeeded', count: 1 },
    ]);
  });

  test('a blocked job whose parent was taken out of the database moves on; one that never had any stays', async () => {
    const parent = await accept();
    const child = uuidv7();
    await accepts.add(newJob({ id: child, options: { dependsOn: [parent] }, dependsOn: [on(parent)] }));
    const other = await accept();
    await db.query(`UPDATE jobs SET state = 'blocked', dispatched_at = NULL WHERE id = $1`, [other]);
    await db.query('DELETE FROM jobs WHERE id = $1', [parent]);
    expect(await releaseStranded(db, '00000000-0000-0000-0000-000000000000', 10)).toEqual({
      next: undefined,
      released: 1,
    });
    expect([await stateOf(child), await stateOf(other)]).toEqual(['queued', 'blocked']);
  });
});

describe('an input that takes from results', () => {
  const take = (parentId: string, at: string[], path: string[], ifMissing: 'null' | 'omit' = 'null') => ({
    parentId,
    on: 'end' as const,
    refs: [{ at, path, ifMissing }],
  });
  async function insertOutput(jobId: string): Promise<string> {
    const id = uuidv7();
    await db.query(
      `INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, job_id)
       VALUES ($1, 'default', 'ready', 'a', 'text/plain', 1, decode(repeat('ab', 32), 'hex'), $2)`,
      [id, jobId],
    );
    return id;
  }

  test('takes many parts of a large result without reading it for each of them, or the end of the parent would time out', async () => {
    const parent = await accept();
    const jobs = Array.from({ length: 10 }, () =>
      newJob({
        input: { list: Array.from({ length: 120 }, () => ({ $from: 'a' })) },
        dependsOn: [
          {
            parentId: parent,
            on: 'success',
            refs: Array.from({ length: 120 }, (_, at) => ({
              at: ['list', String(at)],
              path: ['list', String(at)],
              ifMissing: 'null' as const,
            })),
          },
        ],
      }),
    );
    await Promise.all(jobs.map((job) => accepts.add(job)));
    await run(parent, 'succeeded', { list: Array.from({ length: 120_000 }, (_, at) => at % 10) });
    for (const job of jobs) expect(await stateOf(job.id)).toBe('queued');
    const input = (await findJob(db, 'default', jobs[0]?.id ?? ''))?.input as { list: number[] };
    expect(input.list.slice(8, 12)).toEqual([8, 9, 0, 1]);
  });

  test('of a large result that many jobs wait for goes to as many as one transaction can read it for, and to the others soon', async () => {
    const parent = await accept();
    const jobs = Array.from({ length: 100 }, () =>
      newJob({ input: { n: { $from: 'a' } }, dependsOn: [take(parent, ['n'], ['list', '7'])] }),
    );
    await Promise.all(jobs.map((job) => accepts.add(job)));
    const countQueued = async () => {
      const states = await Promise.all(jobs.map((job) => stateOf(job.id)));
      return states.filter((state) => state === 'queued').length;
    };
    await run(parent, 'succeeded', { list: Array.from({ length: 120_000 }, (_, at) => at % 10) });
    const first = await countQueued();
    expect(first).toBeGreaterThan(10);
    expect(first).toBeLessThan(jobs.length);
    while ((await settleDependants(db)) > 0);
    expect(await countQueued()).toBe(jobs.length);
  });

  test('is put together when it may run', async () => {
    const [first, second, third] = [await accept(), await accept(), await accept()];
    const job = newJob({
      input: { list: [1, { $from: 'a' }], text: { $from: 'b' }, gone: { $from: 'c' }, left: true },
      dependsOn: [
        take(first, ['list', '1'], []),
        take(second, ['text'], ['deep', '0', 'word']),
        take(third, ['gone'], ['x'], 'omit'),
      ],
    });
    await accepts.add(job);
    await run(first, 'succeeded', { n: 5 });
    await run(second, 'succeeded', { deep: [{ word: 'hello' }] });
    await run(third, 'failed');
    expect(await findJob(db, 'default', job.id)).toMatchObject({
      state: 'queued',
      input: { list: [1, { n: 5 }], text: 'hello', left: true },
    });
    expect((await db.query('SELECT FROM job_input_refs')).rowCount).toBe(0);
  });

  test('holds the files of a result from the moment on that it is there', async () => {
    const [first, second] = [await accept(), await accept()];
    const [used, unused] = [await insertOutput(first), await insertOutput(first)];
    const job = newJob({
      input: { file: { $from: 'a', path: 'file' } },
      dependsOn: [take(first, ['file'], ['file']), on(second)],
    });
    await accepts.add(job);
    await run(first, 'succeeded', { file: used, other: unused });
    expect(await deleteFile(db, 'default', used)).toBe('in-use');
    expect(await deleteFile(db, 'default', unused)).toBe('in-use');
    await run(second, 'succeeded');
    expect(await findJob(db, 'default', job.id)).toMatchObject({ state: 'queued', input: { file: used } });
    expect(await deleteFile(db, 'default', used)).toBe('in-use');
    expect(await deleteFile(db, 'default', unused)).toBe('deleted');
    await run(job.id, 'succeeded');
    expect(await deleteFile(db, 'default', used)).toBe('deleted');
  });

  test('fails its job, and not the end of the parent, when it becomes too large or cannot be made', async () => {
    const parent = await accept();
    const large = newJob({ input: { a: 1, b: 2 }, dependsOn: [take(parent, ['a'], ['large'])] });
    const odd = newJob({ input: 5, dependsOn: [take(parent, ['a', 'b'], ['small'])] });
    await Promise.all([accepts.add(large), accepts.add(odd)]);
    const after = await accept(on(large.id), on(odd.id, 'end'));
    const whole = newJob({ input: { a: 1 }, dependsOn: [take(parent, ['a'], ['whole'])] });
    await accepts.add(whole);
    // With its quotes the text is as long as may be, and one longer.
    const text = (bytes: number): string => 'x'.repeat(bytes - 2);
    await run(parent, 'succeeded', {
      large: text(workflowInputBytesMax + 1),
      whole: text(workflowInputBytesMax),
      small: 1,
    });
    expect(await stateOf(whole.id)).toBe('queued');
    expect(await stateOf(parent)).toBe('succeeded');
    for (const { id } of [large, odd])
      expect(await findJob(db, 'default', id)).toMatchObject({
        state: 'failed',
        error: { code: 'task-input' },
      });
    expect(await stateOf(after)).toBe('cancelled');
    // Retried, it is put together again, and not run with what it has.
    await retryJob(db, { tenantId: 'default', id: large.id, inputFiles: [] });
    expect(await findJob(db, 'default', large.id)).toMatchObject({
      state: 'failed',
      error: { code: 'task-input' },
    });
    await db.query(`UPDATE jobs SET result = '{"large": "short"}' WHERE id = $1`, [parent]);
    await retryJob(db, { tenantId: 'default', id: large.id, inputFiles: [] });
    expect(await findJob(db, 'default', large.id)).toMatchObject({
      state: 'queued',
      input: { a: 'short', b: 2 },
    });
  });

  test('a job that failed while it waited waits again when it is retried; what it waits for cannot be deleted', async () => {
    const [done, open] = [await accept(), await accept()];
    const child = await accept(on(done), on(open));
    await run(done, 'succeeded');
    expect(await deleteJob(db, 'default', done)).toEqual({ type: 'awaited' });
    await db.query(`UPDATE jobs SET start_before = now() WHERE id = $1`, [child]);
    expect(await expireJobs(db, ['q'])).toEqual([child]);
    await retryJob(db, { tenantId: 'default', id: child, inputFiles: [] });
    expect(await stateOf(child)).toBe('blocked');
    await run(open, 'succeeded');
    expect(await stateOf(child)).toBe('queued');
    await cancelJob(db, 'default', child, null);
    expect(await deleteJob(db, 'default', done)).toEqual({ type: 'deleted', fileIds: [] });
  });
});
