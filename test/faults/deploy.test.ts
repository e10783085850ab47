/**
 * F54: a rolling deploy. The version before the newest migration, taken from the history of this repository, and this one work
 * on one database, in both directions. Where there is no history (an archive, a shallow clone) there is nothing to compare with.
 */
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from 'pg';
import { expect, test } from 'vitest';
import { checkHistory } from '#test/support/check-history.ts';
import { findLogProblems } from '#test/support/check-log.ts';
import { createClient, startApi, startWorker, type ServiceProcess } from '#test/support/service.ts';
import { createWorld } from '#test/support/world.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

test('F54: the version before the newest migration and this one share a database, each runs the jobs that the other has accepted, once', async (ctx) => {
  const revision = findPreviousRevision();
  if (revision === undefined)
    return ctx.skip('the history of this repository does not reach back to the newest migration');
  const world = await createWorld();
  const processes: ServiceProcess[] = [];
  const start = async <Started extends ServiceProcess>(starting: Promise<Started>): Promise<Started> => {
    const started = await starting;
    processes.push(started);
    return started;
  };
  try {
    const dir = join(world.dataDir, 'previous');
    checkOut(revision, dir);
    const env = { WINDLASS_LEASE_MS: '3000' };
    const previousEnv = { ...env, WINDLASS_TASKS_DIR: join(dir, 'test/fixtures/tasks') };
    const inPrevious = ['sh', '-c', 'cd "$0" && exec "$@"', dir];
    const accepted: string[] = [];
    const submitAll = async (client: ReturnType<typeof createClient>) => {
      for (let n = 0; n < 3; n += 1) {
        accepted.push(await client.submit('test.noop', { n }));
        accepted.push(await client.submit('test.echo', { value: n }));
        accepted.push(await client.submit('test.write', {}, { delayMs: 10 }));
        accepted.push(await client.submit('test.fail', { how: 'error', succeedsAt: 2 }));
      }
      const keyed = await client.post('/v1/jobs', { task: 'test.noop' }, { 'idempotency-key': randomUUID() });
      expect(keyed.status).toBe(202);
      accepted.push(((await keyed.json()) as { id: string }).id);
    };

    await emptyDatabase(world.databaseUrl);
    const previousApi = await start(startApi(world, previousEnv, inPrevious));
    const previousWorker = await start(startWorker(world, previousEnv, inPrevious));
    const previous = createClient(previousApi.url);
    await submitAll(previous);
    const before = await readSchemaNumber(world.databaseUrl);
    // From here on the previous version runs on the newer schema.
    const current = createClient((await start(startApi(world, env))).url);
    expect(await readSchemaNumber(world.databaseUrl)).toBe(before + 1);
    await Promise.all([submitAll(previous), submitAll(current)]);
    await Promise.all(accepted.map((id) => current.finished(id)));

    const currentWorker = await start(startWorker(world, env));
    await Promise.all([submitAll(previous), submitAll(current)]);
    await Promise.all(accepted.map((id) => previous.finished(id)));
    await previousWorker.kill('SIGTERM');
    await submitAll(previous);
    for (const id of accepted) {
      const job = await current.finished(id);
      const outcomes = job.attempts.map((attempt) => attempt.outcome);
      expect([job.state, outcomes]).toEqual([
        'succeeded',
        job['task'] === 'test.fail' ? ['failed', 'succeeded'] : ['succeeded'],
      ]);
    }
    expect(currentWorker.isRunning()).toBe(true);

    await Promise.all(processes.map((process) => process.kill('SIGTERM')));
    expect(processes.flatMap((process) => findLogProblems(String(process.pid), process.lines))).toEqual([]);
    await checkHistory(world, accepted);
  } finally {
    await Promise.all(processes.map((process) => process.kill()));
    await world.dispose();
  }
});

/** The commit before the one that brought the newest migration. */
function findPreviousRevision(): string | undefined {
  const newest = readdirSync(join(root, 'shared/db/migrations')).toSorted().at(-1) ?? '';
  try {
    const added = git('log', '--diff-filter=A', '--format=%H', '--', `shared/db/migrations/${newest}`)
      .trim()
      .split('\n')
      .at(-1);
    return git('rev-parse', '--verify', '--quiet', `${added}^`).trim();
  } catch {
    return undefined;
  }
}

function git(...args: string[]): string {
  return execFileSync('git', ['-C', root, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

function checkOut(revision: string, dir: string): void {
  mkdirSync(dir);
  const archive = execFileSync('git', ['-C', root, 'archive', revision], { maxBuffer: 1024 ** 3 });
  execFileSync('tar', ['-x', '-C', dir], { input: archive });
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'));
}

async function emptyDatabase(url: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query('DROP SCHEMA public CASCADE; CREATE SCHEMA public');
  await client.end();
}

async function readSchemaNumber(url: string): Promise<number> {
  const client = new Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query<{ newest: number }>('SELECT max(number) AS newest FROM migrations');
  await client.end();
  return rows[0]?.newest ?? 0;
}
