/** Workers and what runs in them die, hang, are frozen or are told to go: jobs go on, and leave nothing behind. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { findTaskProcesses, isAlive, isFrozen } from '#test/support/find-processes.ts';
import { createClient, startApi, startWorker, testTasksDir, type TestJob } from '#test/support/service.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { expectOneRunEach, outcomesOf } from './expect-jobs.ts';

test.concurrent('twenty jobs that ran in a worker that was killed with -9 all finish', () =>
  withSystem({ env: { WINDLASS_QUEUES: 'host:4,effect:16' } }, async (system) => {
    const victim = await system.startWorker();
    const ids: string[] = [];
    for (let n = 0; n < 4; n += 1) ids.push(await system.submitGated());
    for (let n = 0; n < 16; n += 1) ids.push(await system.submitGated('test.effect'));
    await system.started(ids);
    await system.startWorker();
    await victim.kill();
    system.openGate();
    for (const job of await system.finished())
      expect([job.state, outcomesOf(job)]).toEqual(['succeeded', ['crashed', 'succeeded']]);
  }));

test.concurrent('F44: a worker that was frozen for longer than its lease commits nothing when it wakes up, and kills its task host', () =>
  withSystem({}, async (system) => {
    const zombie = await system.startWorker();
    const id = await system.submitGated('test.write');
    const [[hostPid = 0] = []] = await system.started([id]);
    const other = await system.startWorker();
    zombie.signal('SIGSTOP');
    await waitForRuns(system, id, 2);
    expect(isAlive(hostPid)).toBe(true);
    // The handler of the zombie returns, too; nobody listens any more.
    system.openGate();
    await waitFor(async () => ((await system.client.job(id)).state === 'succeeded' ? true : undefined), {
      what: 'the other worker to finish the job',
    });
    zombie.signal('SIGCONT');
    // It leaves with an error, so that whatever started it starts it anew.
    expect(await zombie.exited).toBe(1);
    expect(isAlive(hostPid)).toBe(false);
    const [job] = await system.finished();
    expect(outcomesOf(job)).toEqual(['crashed', 'succeeded']);
    expect(other.isRunning()).toBe(true);
    expect(await storedIds(system)).toEqual(job?.files.map((file) => file.id));
  }));

test.concurrent('F44: a run that was frozen just before its commit neither ends the run that took over nor leaves its files', () =>
  withSystem({}, async (system) => {
    const zombie = await system.startWorker({ CRASH_AT: 'run.before-commit:SIGSTOP' });
    const id = await system.submitGated('test.write');
    await system.started([id]);
    system.openGate();
    await waitFor(() => (isFrozen(zombie.pid) ? true : undefined), { what: 'the run to reach its commit' });
    expect(await storedIds(system)).toHaveLength(1);
    system.closeGate();
    await system.startWorker();
    await waitForRuns(system, id, 2);
    zombie.signal('SIGCONT');
    await zombie.exited;
    expect((await system.client.job(id)).state).toBe('active');
    expect(await storedIds(system)).toEqual([]);
    system.openGate();
    const [job] = await system.finished();
    expect([job?.state, outcomesOf(job)]).toEqual(['succeeded', ['crashed', 'succeeded']]);
    expect(await storedIds(system)).toEqual(job?.files.map((file) => file.id));
  }));

test.concurrent('a job that was claimed with others and has no slot after all goes back within moments, and uses no attempt', () =>
  withSystem({ env: { BUNDLE_SIZE: '8', WINDLASS_QUEUES: 'host:3' } }, async (system) => {
    await system.startWorker();
    await system.started([await system.submitGated()]);
    // So that one tick of the feeder packs all of them.
    await system.db.query(`UPDATE queues SET is_paused = true WHERE name = 'host'`);
    const ids: string[] = [];
    for (let n = 0; n < 3; n += 1) ids.push(await system.submitGated());
    await system.db.query(`UPDATE queues SET is_paused = false WHERE name = 'host'`);
    const describe = (job: TestJob) => [job.state, ...job.attempts.map((run) => run.outcome)].join(' ');
    const seen = async () =>
      (await Promise.all(ids.map((id) => system.client.job(id)))).map(describe).toSorted();
    await waitFor(
      async () => ((await seen()).some((line) => line.includes('interrupted')) ? true : undefined),
      {
        what: 'one to go back',
      },
    );
    expect(await seen()).toEqual(['active running', 'active running', 'queued interrupted']);
    system.openGate();
    const ended = await system.finished(ids);
    expect(ended.map(describe).toSorted()).toEqual([
      'succeeded interrupted succeeded',
      'succeeded succeeded',
      'succeeded succeeded',
    ]);
    expect(ended.map((job) => job.result)).toEqual(ids.map(() => ({ attempt: 1 })));
  }));

test.concurrent('F45: a handler that blocks its process is stopped by its time limit; its worker lives on, other jobs are not touched', () =>
  withSystem({}, async (system) => {
    const worker = await system.startWorker();
    // Longer than the lease: it is the worker that renews, not the process of the task.
    const spinning = await system.submit(
      'test.spin',
      { dir: system.marks },
      { timeoutMs: 5_000, attempts: 1 },
    );
    const [[hostPid = 0] = []] = await system.started([spinning]);
    const others = await Promise.all(
      Array.from({ length: 10 }, (_, n) => system.submit('test.echo', { value: n })),
    );
    for (const job of await system.finished(others)) {
      expect([job.state, outcomesOf(job)]).toEqual(['succeeded', ['succeeded']]);
    }
    const [job] = await system.finished([spinning]);
    expect([job?.state, job?.error?.code, outcomesOf(job)]).toEqual(['failed', 'task-timeout', ['failed']]);
    expect(isAlive(hostPid)).toBe(false);
    expect(worker.isRunning()).toBe(true);
  }));

const lastWords = 'the last words of a task';

const deaths = [
  { how: 'exit', says: ['exited with code 7', lastWords] },
  { how: 'abort', says: ['was killed by SIGABRT', lastWords] },
  { how: 'kill', says: ['was killed by SIGKILL', lastWords] },
  { how: 'heap', says: ['was killed by SIGABRT', 'JavaScript heap out of memory'] },
  { how: 'garbage', says: ['sent a line that is too long', lastWords] },
] as const;

test.concurrent('F46: a job that kills its process every time fails as crashed, says how and its last words; others are not touched', () =>
  withSystem({ env: { WINDLASS_HOST_MEMORY_MAX: String(256 * 1024 * 1024) } }, async (system) => {
    await system.startWorker();
    const poison = await Promise.all(
      deaths.map(({ how }) => system.submit('test.crash', { how }, { attempts: 10 })),
    );
    const others = await Promise.all(
      Array.from({ length: 5 }, (_, n) => system.submit('test.echo', { value: n })),
    );
    const ended = await system.finished(poison);
    for (const [index, { says }] of deaths.entries()) {
      const job = ended[index];
      // Given up after three crashes, although ten attempts were granted.
      expect([job?.state, job?.error?.code, outcomesOf(job)]).toEqual([
        'failed',
        'crashed',
        ['crashed', 'crashed', 'crashed'],
      ]);
      for (const words of says) expect(job?.error?.message).toContain(words);
    }
    for (const job of await system.finished(others)) {
      expect([job.state, outcomesOf(job)]).toEqual(['succeeded', ['succeeded']]);
    }
  }));

test.concurrent('F46: a task gets no more memory than its limit; what it is refused is an ordinary error', () =>
  withSystem({ env: { WINDLASS_HOST_MEMORY_MAX: String(160 * 1024 * 1024) } }, async (system) => {
    await system.startWorker();
    const [greedy, modest] = [
      await system.submit('test.crash', { how: 'memory' }),
      await system.submit('test.echo', { value: 1 }),
    ];
    const [failed, succeeded] = await system.finished([greedy, modest]);
    expect([failed?.error?.code, outcomesOf(failed)]).toEqual([
      'task-failed',
      ['failed', 'failed', 'failed'],
    ]);
    expect(failed?.error?.message).toMatch(/allocat/i);
    expect([succeeded?.state, outcomesOf(succeeded)]).toEqual(['succeeded', ['succeeded']]);
  }));

test.concurrent('F47: no process is left of a cancelled job that ignores SIGTERM and has a grandchild in a session of its own', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    const id = await system.submit('test.spin', { dir: system.marks, grandchild: true });
    const [[hostPid = 0] = []] = await system.started([id]);
    const grandchild = Number(readFileSync(join(system.marks, `grandchild-${id}`), 'utf8'));
    expect(isAlive(grandchild)).toBe(true);
    await system.client.post(`/v1/jobs/${id}/cancel`);
    expect(await system.finished([id])).toMatchObject([{ state: 'cancelled' }]);
    expect([isAlive(hostPid), isAlive(grandchild)]).toEqual([false, false]);
  }));

test.concurrent('F47: no process is left of a worker that was killed with -9', () =>
  withSystem({}, async (system) => {
    const victim = await system.startWorker();
    const id = await system.submit('test.spin', { dir: system.marks, grandchild: true }, { attempts: 1 });
    await system.started([id]);
    await system.startWorker();
    const victims = findTaskProcesses(system.world.dataDir).filter(({ pid }) => isChildOf(pid, victim.pid));
    const grandchild = Number(readFileSync(join(system.marks, `grandchild-${id}`), 'utf8'));
    expect(victims.length).toBeGreaterThan(0);
    await victim.kill();
    await waitFor(() => ([...victims.map(({ pid }) => pid), grandchild].some(isAlive) ? undefined : true), {
      what: 'the processes of the dead worker to end',
      seen: () => findTaskProcesses(system.world.dataDir),
    });
    expect(await system.finished([id])).toMatchObject([{ state: 'failed', error: { code: 'crashed' } }]);
  }));

const badResults = [
  { how: 'output', code: 'task-output' },
  { how: 'bigint', code: 'task-output' },
  { how: 'circular', code: 'task-output' },
  { how: 'nul', code: 'task-output' },
  { how: 'large', code: 'result-too-large' },
  { how: 'symlink', code: 'task-output' },
] as const;

test.concurrent('F48: a task that leaks memory has its host replaced when that has grown, and no job notices', () =>
  withSystem({}, async (system) => {
    const MiB = 1024 * 1024;
    await system.startWorker({ WINDLASS_SLOTS: '1', WINDLASS_HOST_RECYCLE_RSS: String(160 * MiB) });
    for (let n = 0; n < 8; n += 1) await system.submit('test.greedy', { how: 'leak', bytes: 40 * MiB });
    const results = (await system.finished()).map((job) => job.result as { pid: number; runs: number });
    // After its fourth run a host holds 160 MiB of them alone.
    expect(Math.max(...results.map(({ runs }) => runs))).toBeLessThanOrEqual(4);
    expect(new Set(results.map(({ pid }) => pid)).size).toBeGreaterThan(1);
    await expectOneRunEach(system);
  }));

test.concurrent('F49: a task that writes without end fails with the limit as its reason, and its file is gone', () =>
  withSystem({}, async (system) => {
    await system.startWorker({ WINDLASS_HOST_FILE_BYTES_MAX: String(2 * 1024 * 1024) });
    await system.submit('test.greedy', { how: 'file' }, { attempts: 1 });
    const [job] = await system.finished();
    expect(job).toMatchObject({ state: 'failed', error: { code: 'task-failed' } });
    expect(job?.error?.message).toMatch(/EFBIG.*WINDLASS_HOST_FILE_BYTES_MAX/);
    const scratch = join(system.world.dataDir, 'scratch');
    const left = () =>
      readdirSync(scratch, { recursive: true, encoding: 'utf8' }).filter((path) =>
        path.includes(job?.id ?? ''),
      );
    await waitFor(() => (left().length === 0 ? true : undefined), {
      what: 'the directory of the run to be removed',
      seen: left,
    });
    await system.submit('test.write');
    await system.finished([system.accepted.at(-1) ?? '']);
  }));

test.concurrent('F50: a result that cannot be kept fails its job for good, with the reason, and harms nothing else', () =>
  withSystem({}, async (system) => {
    const worker = await system.startWorker();
    const bad = await Promise.all(badResults.map(({ how }) => system.submit('test.fail', { how })));
    const ended = await system.finished(bad);
    expect(ended.map((job) => [job['input'], job.state, job.error?.code, outcomesOf(job)])).toEqual(
      badResults.map(({ how, code }) => [{ how }, 'failed', code, ['failed']]),
    );
    await system.submit('test.echo', { value: 1 });
    await system.finished();
    expect(worker.isRunning()).toBe(true);
  }));

test.concurrent('F51: on SIGTERM a job that does not end in time is put back at once without using an attempt, and runs elsewhere', () =>
  withSystem({}, async (system) => {
    const leaving = await system.startWorker({
      WINDLASS_GRACE_MS: '300',
      WINDLASS_QUEUES: 'host:2,effect:2',
    });
    const ids = [
      await system.submitGated('test.sleep', { ignoresAbort: true }),
      await system.submitGated('test.sleep'),
      await system.submitGated('test.effect'),
    ];
    await system.started(ids);
    await system.startWorker();
    await leaving.kill('SIGTERM');
    expect(await leaving.exited).toBe(0);
    system.openGate();
    for (const job of await system.finished()) {
      expect([job.state, outcomesOf(job)]).toEqual(['succeeded', ['interrupted', 'succeeded']]);
    }
    // Handlers are told the number of the attempt, and interruptions do not count.
    expect((await system.finished([ids[0] ?? '']))[0]?.result).toEqual({ attempt: 1 });
  }));

test.concurrent('F51: a job that is just being claimed on SIGTERM is finished like one that runs', () =>
  withSystem({}, async (system) => {
    const id = await system.submit('test.echo', { value: 1 });
    const holder = await system.db.connect();
    await holder.query('BEGIN');
    await holder.query('SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE', [id]);
    const leaving = await system.startWorker();
    await waitFor(async () => ((await countWaitingForLock(system)) > 0 ? true : undefined), {
      what: 'the claim to wait',
    });
    leaving.signal('SIGTERM');
    await waitFor(
      async () => (leaving.lines.some((line) => line.includes('"msg":"stopping"')) ? true : undefined),
      { what: 'the worker to begin to stop' },
    );
    await holder.query('ROLLBACK');
    holder.release();
    expect(await leaving.exited).toBe(0);
    await system.startWorker();
    await expectOneRunEach(system);
  }));

test.concurrent('F51: on SIGTERM a job whose files are just being stored is put back without using an attempt', () =>
  withSystem({}, async (system) => {
    const leaving = await system.startWorker({ WINDLASS_GRACE_MS: '0' });
    const id = await system.submitGated('test.write');
    await system.started([id]);
    const holder = await system.db.connect();
    await holder.query('BEGIN');
    await holder.query('LOCK TABLE files IN SHARE MODE');
    system.openGate();
    await waitFor(async () => ((await countWaitingForLock(system)) > 0 ? true : undefined), {
      what: 'the outputs to wait',
    });
    leaving.signal('SIGTERM');
    await waitFor(() => (leaving.lines.some((line) => line.includes('"stopping"')) ? true : undefined), {
      what: 'it to stop',
    });
    await holder.query('ROLLBACK');
    holder.release();
    expect(await leaving.exited).toBe(0);
    await system.startWorker();
    const [job] = await system.finished();
    expect([job?.state, outcomesOf(job)]).toEqual(['succeeded', ['interrupted', 'succeeded']]);
  }));

test.concurrent('F53: a worker that does not know a task leaves its jobs to one that does, without using an attempt', () =>
  withSystem({}, async (system) => {
    const olderTasks = join(system.marks, 'older-tasks');
    mkdirSync(olderTasks);
    for (const name of readdirSync(testTasksDir)) {
      if (name !== 'echo') symlinkSync(join(testTasksDir, name), join(olderTasks, name));
    }
    const older = await system.startWorker({ WINDLASS_TASKS_DIR: olderTasks });
    const id = await system.submit('test.echo', { value: 1 });
    await waitFor(
      async () => {
        const { rows } = await system.db.query<{ state: string; fence: number }>(
          'SELECT state, fence FROM jobs WHERE id = $1',
          [id],
        );
        return rows[0]?.state === 'scheduled' && rows[0].fence === 1 ? true : undefined;
      },
      { what: 'the older worker to put the job back' },
    );
    expect((await system.client.job(id)).attempts).toEqual([]);
    // Its own jobs are not held up meanwhile.
    const known = await system.submit('test.sleep');
    await system.finished([known]);
    await older.kill('SIGTERM');
    await system.startWorker();
    await expectOneRunEach(system);
    rmSync(olderTasks, { recursive: true });
  }));

test.concurrent('F58: of ten thousand reports of progress a second Postgres sees two', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    await system.db.query('CREATE TABLE progress_writes (at timestamptz DEFAULT now())');
    await system.db.query(
      `CREATE FUNCTION note_progress() RETURNS trigger LANGUAGE plpgsql
       AS $$ BEGIN INSERT INTO progress_writes DEFAULT VALUES; RETURN NULL; END $$`,
    );
    await system.db.query(
      `CREATE TRIGGER note_progress AFTER UPDATE ON jobs FOR EACH ROW WHEN (NEW.progress IS DISTINCT FROM OLD.progress)
       EXECUTE FUNCTION note_progress()`,
    );
    await system.submit('test.greedy', { how: 'progress', ms: 3_000 });
    const [job] = await system.finished();
    const { calls, ms } = (job as { result: { calls: number; ms: number } }).result;
    expect(calls).toBeGreaterThan(100);
    const { rows } = await system.db.query<{ count: number }>(
      'SELECT count(*) AS count FROM progress_writes',
    );
    expect(rows[0]?.count).toBeGreaterThan(1);
    // One more when the handler ends, and one when the success clears it.
    expect(rows[0]?.count).toBeLessThanOrEqual((ms / 1_000) * 2 + 2);
  }));

test.concurrent('F80: api and worker whose stdout is a full pipe that nobody reads go on, and end when they are told to', () =>
  withSystem({}, async (system) => {
    const pipe = join(system.marks, 'stdout');
    execFileSync('mkfifo', [pipe]);
    const held = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
    system.onEnd(() => closeSync(held));
    fill(held);
    // For reading as well, so that opening it waits for nobody.
    const through = ['sh', '-c', 'exec 1<>"$0"; exec "$@"', pipe];
    const worker = await startWorker(system.world, { WINDLASS_LEASE_MS: '3000' }, through);
    system.onEnd(() => worker.kill());
    const api = await startApi(system.world, {}, through);
    system.onEnd(() => api.kill());
    const client = createClient(api.url);
    for (let n = 0; n < 100; n += 1) system.accepted.push(await client.submit('test.noop', { n }));
    system.accepted.push(await client.submit('test.echo', { value: 1 }), await client.submit('test.write'));
    await expectOneRunEach(system);
    expect((await client.get('/readyz')).status).toBe(200);
    api.signal('SIGTERM');
    worker.signal('SIGTERM');
    expect(await Promise.all([api.exited, worker.exited])).toEqual([0, 0]);
  }));

/** Until not a byte more goes into the pipe. */
function fill(pipe: number): void {
  for (const size of [4_096, 1]) {
    try {
      for (;;) writeSync(pipe, Buffer.alloc(size));
    } catch {
      continue; // EAGAIN
    }
  }
}

async function waitForRuns(system: System, id: string, count: number): Promise<void> {
  await waitFor(async () => ((await system.started([id]))[0]?.length === count ? true : undefined), {
    what: `run ${count} of the job to begin`,
  });
}

async function countWaitingForLock({ db }: System): Promise<number> {
  const { rows } = await db.query<{ count: number }>(
    `SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
  );
  return rows[0]?.count ?? 0;
}

async function storedIds({ world }: System): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of createFsStorage({ dir: join(world.dataDir, 'files') }).list()) ids.push(id);
  return ids;
}

function isChildOf(pid: number, parent: number): boolean {
  return readFileSync(`/proc/${pid}/status`, 'utf8').includes(`\nPPid:\t${parent}\n`);
}
