/** Postgres is restarted, frozen, or cuts connections: what was done is committed once, and nobody is taken for dead. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { expect, test } from 'vitest';
import { isUuid } from '#shared/ids.ts';
import type { OwnPostgres } from '#test/support/breakable-servers.ts';
import type { OwnServer } from '#test/support/own-servers.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';
import { expectOneRunEach, outcomesOf } from './expect-jobs.ts';

const outages: readonly {
  name: string;
  begin: (postgres: OwnServer) => unknown;
  end: (postgres: OwnServer) => unknown;
}[] = [
  {
    name: 'was killed and recovers',
    begin: (postgres) => postgres.kill(),
    end: (postgres) => postgres.start(),
  },
  {
    name: 'was stopped and started',
    begin: (postgres) => postgres.stop(),
    end: (postgres) => postgres.start(),
  },
  { name: 'hung', begin: (postgres) => postgres.freeze(), end: (postgres) => postgres.thaw() },
];

test.concurrent.each(outages)(
  'F59: jobs that ended while Postgres $name are committed with their first run, and no worker is taken for dead',
  ({ begin, end }) =>
    withSystem({ own: ['postgres'] }, async (system, { postgres }) => {
      const workers = [await system.startWorker(), await system.startWorker()];
      const options = { attempts: 1 };
      const ids = [
        await system.submitGated('test.write', {}, options),
        await system.submitGated('test.write', {}, options),
        await system.submitGated('test.sleep', {}, options),
        await system.submitGated('test.sleep', {}, options),
      ];
      await system.started(ids);
      // A claim waits for no disk; whatever is accepted or ended after it takes it along.
      await system.submit('test.noop');
      await begin(postgres);
      system.openGate();
      await waitFor(() => (countOutputs(system) === 2 ? true : undefined), {
        what: 'the handlers to write their files',
      });
      // Longer than the lease: every worker's has run out when Postgres is back.
      await sleep(5_000);
      await end(postgres);
      await expectOneRunEach(system);
      expect(workers.map((worker) => worker.isRunning())).toEqual([true, true]);
      await system.submit('test.noop');
      await system.finished();
    }),
);

test.concurrent('F59: a job whose claim Postgres forgot when it was killed runs again, and ends once', () =>
  withSystem({ own: ['postgres'] }, async (system, { postgres }) => {
    await neverWriteUnasked(postgres);
    const workers = [await system.startWorker(), await system.startWorker()];
    // Whatever else waits for a commit takes the claim along, which on a busy machine may just happen.
    for (let tries = 0; tries < 12 && countStarts(system) === system.accepted.length; tries += 1) {
      await system.started([await system.submitGated(tries % 2 === 0 ? 'test.write' : 'test.sleep')]);
      await postgres.kill();
      await postgres.start();
      await waitFor(() => (countStarts(system) > system.accepted.length ? true : undefined), {
        what: 'the job to be started again',
        deadlineMs: 8_000,
      }).catch(() => undefined);
    }
    expect(countStarts(system)).toBeGreaterThan(system.accepted.length);
    system.openGate();
    for (const job of await system.finished())
      expect([job.state, outcomesOf(job)]).toEqual(['succeeded', ['succeeded']]);
    expect(workers.map((worker) => worker.isRunning())).toEqual([true, true]);
  }));

test.concurrent('F59: a job that must not run twice is never forgotten to have begun', () =>
  withSystem({ own: ['postgres'] }, async (system, { postgres }) => {
    await neverWriteUnasked(postgres);
    await system.startWorker();
    const id = await system.submitGated('test.once');
    await system.started([id]);
    await postgres.kill();
    await postgres.start();
    system.openGate();
    await expectOneRunEach(system);
    expect(countStarts(system)).toBe(1);
  }));

test.concurrent('F61: while Postgres ends connections again and again, each job has exactly one terminal commit', () =>
  // A lease that outlasts a few renewals in a row that are cut off: nobody is dead here.
  withSystem({ env: { WINDLASS_LEASE_MS: '15000' } }, async (system) => {
    const workers = [await system.startWorker(), await system.startWorker()];
    const cutting = new AbortController();
    const cutter = (async () => {
      while (!cutting.signal.aborted) {
        await system.db.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'windlass-%'`,
        );
        await sleep(200);
      }
    })();
    await Promise.all(Array.from({ length: 60 }, (_, n) => submitThroughErrors(system, n)));
    const jobs = await system.finished();
    cutting.abort();
    await cutter;
    for (const job of jobs) {
      // A claim whose answer was lost is handed back, which uses no attempt.
      const counted = outcomesOf(job)?.filter((outcome) => outcome !== 'interrupted');
      expect([job.state, counted]).toEqual(['succeeded', ['succeeded']]);
    }
    expect(workers.map((worker) => worker.isRunning())).toEqual([true, true]);
  }));

test.concurrent('F61: a run that lost the answer to its commit, and then Postgres, keeps the files that it committed', () =>
  withSystem({ proxied: ['postgres'] }, async (system, _servers, { postgres }) => {
    const api = await system.startApi({ DATABASE_URL: system.world.databaseUrl });
    expect(api.isRunning()).toBe(true);
    const worker = await system.startWorker();
    const id = await system.submitGated('test.write');
    await system.started([id]);
    const lost = postgres.loseAnswerTo('settle-runs', { thenRefuse: true });
    system.openGate();
    await lost;
    const { rows } = await system.db.query('SELECT state FROM jobs WHERE id = $1', [id]);
    expect(rows).toEqual([{ state: 'succeeded' }]);
    await waitFor(() => (worker.lines.some((line) => line.includes('loop failed')) ? true : undefined), {
      what: 'the worker to notice',
    });
    postgres.heal();
    await waitFor(() => (worker.lines.some((line) => line.includes('job succeeded')) ? true : undefined), {
      what: 'the worker to learn what became of its commit',
    });
    await expectOneRunEach(system);
  }));

/** Retried with its key, as clients do that get a 503. */
async function submitThroughErrors(system: System, n: number): Promise<void> {
  const [task, input] =
    n % 3 === 0 ? ['test.write', {}] : n % 3 === 1 ? ['test.echo', { value: n }] : ['test.noop', { n }];
  const id = await waitFor(
    async () => {
      const response = await system.client.post(
        '/v1/jobs',
        { task, input },
        { 'idempotency-key': `job-${n}` },
      );
      return response.status === 202 ? ((await response.json()) as { id: string }).id : undefined;
    },
    { what: 'the job to be accepted' },
  );
  system.accepted.push(id);
}

/** Output files that handlers have written, complete or not, and that are not stored yet. */
/** Postgres writes its log only when a commit waits for it. */
async function neverWriteUnasked(postgres: OwnPostgres): Promise<void> {
  const admin = new Client({ connectionString: postgres.adminUrl });
  await admin.connect();
  await admin.query(`ALTER SYSTEM SET wal_writer_delay = '10s'`);
  await admin.query('SELECT pg_reload_conf()');
  await admin.end();
}

/** Of handlers that said so. */
function countStarts({ marks }: System): number {
  return readdirSync(marks).filter((name) => name.startsWith('started-')).length;
}

function countOutputs({ world }: System): number {
  return readdirSync(join(world.dataDir, 'scratch'), { recursive: true, withFileTypes: true }).filter(
    (entry) => entry.isFile() && isUuid(entry.name),
  ).length;
}
