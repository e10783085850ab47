/** Accepting a job while something breaks: a 202 is never taken back, and anything else leaves nothing behind. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { findLogProblems } from '#test/support/check-log.ts';
import { createClient, startApi } from '#test/support/service.ts';
import { withSystem, type System } from '#test/support/system.ts';
import { waitFor } from '#test/support/wait-for.ts';

const noop = (n: number) => ({ task: 'test.noop', input: { n } });

test.concurrent('F3: an api that dies before the commit leaves no job, and the retry with the same key makes one', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    const dying = await system.startApi({ CRASH_AT: 'accept.before-commit' });
    const key = { 'idempotency-key': 'before-commit' };
    await expect(createClient(dying.url).post('/v1/jobs', noop(1), key)).rejects.toThrow('fetch failed');
    await dying.exited;
    expect(await countJobs(system)).toBe(0);
    const retried = await system.client.post('/v1/jobs', noop(1), key);
    expect(retried.headers.get('idempotency-replayed')).toBeNull();
    system.accepted.push(await acceptedId(retried));
    await system.finished();
    expect(await countJobs(system)).toBe(1);
  }));

test.concurrent('F4: a commit whose answer was lost is a 202, and one job', () =>
  withSystem({ proxied: ['postgres'] }, async (system, _servers, { postgres }) => {
    const lost = postgres.loseAnswerTo('accept-jobs');
    const id = await system.submit('test.noop', { n: 1 });
    await lost;
    await system.startWorker();
    expect(await system.finished()).toMatchObject([{ id, state: 'succeeded' }]);
    expect(await countJobs(system)).toBe(1);
  }));

test.concurrent('F5, F6: a job whose api died after the commit runs, and its client finds it by the key', () =>
  withSystem({}, async (system) => {
    const dying = await system.startApi({ CRASH_AT: 'accept.after-commit' });
    const key = { 'idempotency-key': 'after-commit' };
    await expect(createClient(dying.url).post('/v1/jobs', noop(5), key)).rejects.toThrow('fetch failed');
    await dying.exited;
    // Marked as dispatched by a process that never came to do it: repair has to find it.
    const { rows } = await system.db.query<{ id: string; dispatched: boolean }>(
      'SELECT id, dispatched_at IS NOT NULL AS dispatched FROM jobs',
    );
    expect(rows).toMatchObject([{ dispatched: true }]);
    await system.startWorker();
    const retried = await system.client.post('/v1/jobs', noop(5), key);
    expect(retried.headers.get('idempotency-replayed')).toBe('true');
    const id = await acceptedId(retried);
    expect(id).toBe(rows[0]?.id);
    expect(await system.finished([id])).toMatchObject([{ state: 'succeeded', result: { n: 5 } }]);
    expect(await countJobs(system)).toBe(1);
  }));

test.concurrent('F7: without Redis jobs are accepted, the api stays ready and says so, and they run when Redis is back', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await system.startWorker();
    await redis.kill();
    await Promise.all(
      Array.from({ length: 40 }, (_, n) =>
        system.submit(n % 2 === 0 ? 'test.noop' : 'test.echo', n % 2 === 0 ? { n } : { value: n }),
      ),
    );
    await waitFor(
      async () => {
        const ready = await system.client.get('/readyz');
        const { checks } = (await ready.json()) as { checks: { redis: string } };
        return ready.status === 200 && checks.redis.startsWith('away') ? true : undefined;
      },
      { what: 'the api to be ready and to report that Redis is away' },
    );
    // A worker may be started meanwhile, too: Postgres is all it needs to take part.
    const late = system.startUnreadyWorker();
    await waitFor(() => (late.lines.some((line) => line.includes('worker ready')) ? true : undefined), {
      what: 'a worker to start without Redis',
    });
    await redis.startEmpty();
    expect((await system.finished()).every((job) => job.state === 'succeeded')).toBe(true);
  }));

test.concurrent('F8: while Redis hangs jobs are accepted, and they run when it answers again', () =>
  withSystem({ own: ['redis'] }, async (system, { redis }) => {
    await system.startWorker();
    redis.freeze();
    for (let n = 0; n < 20; n += 1) await system.submit('test.noop', { n });
    redis.thaw();
    expect((await system.finished()).every((job) => job.state === 'succeeded')).toBe(true);
  }));

test.concurrent('F9: without Postgres nothing is accepted: 503 with Retry-After, no half job; later the same call works', () =>
  withSystem({ own: ['postgres'] }, async (system, { postgres }) => {
    await system.startWorker();
    await system.submit('test.noop', { n: 0 });
    await postgres.kill();
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        system.client.post('/v1/jobs', noop(n), { 'idempotency-key': `outage-${n % 10}` }),
      ),
    );
    for (const answer of answers) {
      expect(answer.status).toBe(503);
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
      expect(await answer.json()).toMatchObject({ code: 'unavailable' });
    }
    expect((await system.client.get('/readyz')).status).toBe(503);
    expect((await system.client.get('/livez')).status).toBe(200);
    await postgres.start();
    expect(await countJobs(system)).toBe(1);
    for (let n = 0; n < 10; n += 1) {
      const answer = await waitFor(
        async () => {
          const retried = await system.client.post('/v1/jobs', noop(n), { 'idempotency-key': `outage-${n}` });
          return retried.status === 202 ? retried : undefined;
        },
        { what: 'the api to accept again' },
      );
      system.accepted.push(await acceptedId(answer));
    }
    expect((await system.finished()).every((job) => job.state === 'succeeded')).toBe(true);
    expect(await countJobs(system)).toBe(11);
  }));

test.concurrent('F10: while every connection of its pool is busy the api says 503 with Retry-After, accepts, and is ready; later it answers', () =>
  withSystem({}, async (system) => {
    const client = createClient(
      (
        await system.startApi({
          WINDLASS_DB_POOL: '2',
          WINDLASS_DB_TIMEOUT_MS: '1500',
          DATABASE_URL: withSetting(system, 'lock_timeout', '60000'),
        })
      ).url,
    );
    const id = await system.submit('test.noop');
    await system.startWorker();
    await system.finished();
    // Reading a job needs this table, accepting one does not.
    const release = await lockTable(system, 'attempts', 'ACCESS EXCLUSIVE');
    const held: Promise<Response>[] = [];
    await waitFor(
      async () => {
        held.push(client.get(`/v1/jobs/${id}`));
        return (await listWaiting(system)).length === 2 ? true : undefined;
      },
      { what: 'both connections to wait for the lock' },
    );
    const answers = await Promise.all(Array.from({ length: 20 }, () => client.get(`/v1/jobs/${id}`)));
    for (const answer of answers) {
      expect([answer.status, Number(answer.headers.get('retry-after')) > 0]).toEqual([503, true]);
      expect(await answer.json()).toMatchObject({ code: 'unavailable' });
    }
    expect(await (await client.get('/readyz')).json()).toMatchObject({
      status: 'ready',
      checks: { postgres: 'ok' },
    });
    expect((await client.get('/livez')).status).toBe(200);
    system.accepted.push(await client.submit('test.noop'));
    await release();
    await Promise.all(held);
    expect((await client.get(`/v1/jobs/${id}`)).status).toBe(200);
    await system.finished();
    const { rows } = await system.db.query<{ count: number }>(
      `SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'windlass-api'
         AND state <> 'idle'`,
    );
    expect(rows).toEqual([{ count: 0 }]);
  }));

test.concurrent('F11: a lock that passes costs an accepting call nothing but time; one that stays is a 503 with Retry-After, and no row', () =>
  withSystem({}, async (system) => {
    await system.startWorker();
    // Instead of 5 s, for the test's sake.
    const { post } = createClient(
      (await system.startApi({ DATABASE_URL: withSetting(system, 'lock_timeout', '300') })).url,
    );
    let release = await lockTable(system, 'jobs', 'SHARE');
    const refused = await post('/v1/jobs', noop(1), { 'idempotency-key': 'locked' });
    expect([refused.status, Number(refused.headers.get('retry-after')) > 0]).toEqual([503, true]);
    await release();
    expect(await countJobs(system)).toBe(0);
    const { rows } = await system.db.query('SELECT key FROM idempotency_keys');
    expect(rows).toEqual([]);

    release = await lockTable(system, 'jobs', 'SHARE');
    const accepting = post('/v1/jobs', noop(1), { 'idempotency-key': 'locked' });
    // The statement waits for the lock, gives up, and is tried again.
    const first = await waitFor(
      async () => {
        const waiting = await listWaiting(system);
        return waiting.length > 0 ? waiting : undefined;
      },
      { what: 'the statement to wait' },
    );
    await waitFor(
      async () => ((await listWaiting(system)).some((start) => start > (first[0] ?? '')) ? true : undefined),
      { what: 'the statement to be tried again' },
    );
    await release();
    system.accepted.push(await acceptedId(await accepting));
    await system.finished();
    expect(await countJobs(system)).toBe(1);
  }));

test.concurrent('F15: an api that runs out of descriptors lives on, and accepts again when some are free', (ctx) => {
  if (!hasPrlimit()) ctx.skip('there is no prlimit');
  return withSystem({}, async (system) => {
    const api = await startApi(system.world, {}, ['prlimit', '--nofile=96:96']);
    system.onEnd(() => api.kill());
    const client = createClient(api.url);
    // Connections that are kept: what comes by them later gets an answer.
    const ids = await Promise.all(Array.from({ length: 8 }, (_, n) => client.submit('test.noop', { n })));
    system.accepted.push(...ids);
    const limitReached = () => readdirSync(`/proc/${api.pid}/fd`).length >= 95;
    const sockets: Socket[] = [];
    await waitFor(
      () => {
        for (let n = 0; n < 20; n += 1) {
          const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
          // Those for which there is no descriptor are closed at once.
          socket.on('error', () => undefined);
          socket.write('POST /v1/jobs HTTP/1.1\r\nHost: a\r\n');
          sockets.push(socket);
        }
        return limitReached() ? true : undefined;
      },
      { what: 'all descriptors to be used' },
    );
    const answers = await Promise.all([
      ...ids.slice(2).map((id) => client.get(`/v1/jobs/${id}`)),
      client.request('POST', '/v1/files', { body: Buffer.alloc(100_000) }),
      client.request('POST', '/v1/files', { body: Buffer.alloc(100_000) }),
    ]);
    // For a file, and for a connection to Postgres, there is no descriptor left.
    expect(
      answers.map((response) => response.status).filter((status) => status !== 503 && status !== 200),
    ).toEqual([]);
    expect(answers.slice(-2).map((response) => response.status)).toEqual([503, 503]);
    for (const socket of sockets) socket.destroy();
    const answer = await waitFor(
      async () => {
        const response = await client.request('POST', '/v1/files', { body: Buffer.alloc(100_000) });
        return response.status === 201 ? response : undefined;
      },
      { what: 'uploads to work again' },
    );
    expect(await answer.json()).toMatchObject({ size: 100_000 });
    system.accepted.push(await client.submit('test.noop', { n: 2 }));
    await system.startWorker();
    await system.finished();
    await api.kill('SIGTERM');
    expect(findLogProblems('api', api.lines)).toEqual([]);
  });
});

test.concurrent('F20, F21: fifty equal requests with one key at two apis are one job and equal answers; another body is refused', () =>
  withSystem({}, async (system) => {
    const apis = [system.client, createClient((await system.startApi()).url)];
    await system.startWorker();
    const send = (n: number, body: unknown) =>
      apis[n % 2]?.post('/v1/jobs', body, { 'idempotency-key': 'same' }) ??
      Promise.reject(new Error('There are two.'));
    const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => send(n, noop(1))));
    const bodies = await Promise.all(answers.map((answer) => answer.json() as Promise<{ id: string }>));
    expect(answers.map((answer) => answer.status)).toEqual(Array.from({ length: 50 }, () => 202));
    for (const body of bodies) expect(body).toEqual(bodies[0]);
    expect(answers.filter((answer) => answer.headers.get('idempotency-replayed') === null)).toHaveLength(1);
    const id = bodies[0]?.id ?? '';
    system.accepted.push(id);
    await system.finished();
    // The answer stays what it was, although the job has ended by now.
    expect(await (await send(1, { input: { n: 1 }, task: 'test.noop' })).json()).toEqual(bodies[0]);
    const refused = await send(0, noop(2));
    expect(refused.status).toBe(422);
    expect(await refused.json()).toMatchObject({ code: 'idempotency-mismatch' });
    expect(await countJobs(system)).toBe(1);
  }));

async function countJobs({ db }: System): Promise<number> {
  const { rows } = await db.query<{ count: number }>('SELECT count(*) AS count FROM jobs');
  return rows[0]?.count ?? -1;
}

async function acceptedId(response: Response): Promise<string> {
  expect(response.status).toBe(202);
  return ((await response.json()) as { id: string }).id;
}

/** As a migration, or an operator's own session, may hold one. @returns releases it. */
async function lockTable(system: System, table: string, mode: string): Promise<() => Promise<void>> {
  const holder = await system.db.connect();
  await holder.query('BEGIN');
  await holder.query(`LOCK TABLE ${table} IN ${mode} MODE`);
  let isReleased = false;
  const release = async () => {
    if (isReleased) return;
    isReleased = true;
    await holder.query('ROLLBACK');
    holder.release();
  };
  system.onEnd(release);
  return release;
}

/** @returns when each statement of an api that waits for a lock began. */
async function listWaiting({ db }: System): Promise<string[]> {
  const { rows } = await db.query<{ start: string }>(
    `SELECT query_start::text AS start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
       AND application_name = 'windlass-api'`,
  );
  return rows.map((row) => row.start);
}

/** The URL of the database, with another value for one of the time limits of shared/db/pool.ts. */
function withSetting({ world }: System, name: string, value: string): string {
  const url = new URL(world.databaseUrl);
  url.searchParams.set(name, value);
  return url.href;
}

function hasPrlimit(): boolean {
  try {
    execFileSync('prlimit', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
