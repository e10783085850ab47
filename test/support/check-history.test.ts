import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client } from 'pg';
import { expect, test } from 'vitest';
import { uuidv7 } from '#shared/ids.ts';
import { createFsStorage } from '#shared/storage/fs-storage.ts';
import { createMark, markVariable } from '#worker/task-host/processes.ts';
import { Readable } from 'node:stream';
import { checkHistory } from './check-history.ts';
import { createWorld, type World } from './world.ts';

test('a history in which a job crashed, ran again and made a file is in order', () =>
  withHistory(async ({ check }) => {
    await expect(check()).resolves.toBeUndefined();
  }));

const violations: readonly (readonly [string, string])[] = [
  ['I1: an accepted job is missing', `DELETE FROM files; DELETE FROM jobs`],
  ['I2: a job has not ended', `UPDATE jobs SET state = 'queued', result = NULL, finished_at = NULL`],
  ['I3: a job that succeeded has not exactly one attempt', `UPDATE attempts SET outcome = 'succeeded'`],
  [
    'I3: a job that ended has not exactly one terminal event',
    `INSERT INTO events (tenant_id, job_id, type) SELECT 'default', id, 'job.succeeded' FROM jobs`,
  ],
  [
    'or it is another one than its state',
    `UPDATE events SET type = 'job.failed' WHERE type = 'job.succeeded'`,
  ],
  [
    'I3: an attempt began or ended after the one that succeeded',
    `UPDATE attempts SET fence = 3 WHERE fence = 1`,
  ],
  ['I8: an attempt has a fence that its job never reached', `UPDATE attempts SET fence = 3 WHERE fence = 2`],
  [
    'I8: two runs of a job owned it at the same time',
    `UPDATE attempts SET started_at = started_at - interval '1 h' WHERE fence = 2`,
  ],
  [
    'I8: a claim has no attempt',
    `INSERT INTO events (tenant_id, job_id, type) SELECT 'default', id, 'job.active' FROM jobs`,
  ],
  ['I9: attempts_used or crashes', `UPDATE jobs SET crashes = 0`],
  ['I9: attempts_used or crashes', `UPDATE jobs SET attempts_used = 1`],
  [
    'I9: a job whose last attempt crashed failed with another code',
    `UPDATE attempts SET outcome = 'crashed'; UPDATE jobs SET state = 'failed', result = NULL, crashes = 2, error = '{"code":"task-failed"}'`,
  ],
  [
    'I4: an idempotency key stands for a job that is not there',
    `INSERT INTO idempotency_keys (tenant_id, key, fingerprint, resource, resource_id) VALUES ('default', 'k', '', 'job', '${uuidv7()}')`,
  ],
  [
    'I7: a job succeeded, and the end of one of its effects is not recorded',
    `INSERT INTO effects (job_id, key, tenant_id) SELECT id, 'post', 'default' FROM jobs`,
  ],
  [
    'I10: the events of a job tell of a move that does not exist',
    `DELETE FROM events WHERE type = 'job.queued'`,
  ],
  [
    'F57: a job ran before its time',
    `UPDATE jobs SET options = '{"delayMs": 60000}', created_at = now() - interval '5 s'`,
  ],
  ['F57: a job ran before its time', `UPDATE jobs SET options = '{"runAt": "2999-01-01T00:00:00Z"}'`],
  [
    'I11: a job that ended still holds its input files',
    `INSERT INTO job_inputs (job_id, file_id, tenant_id) SELECT job_id, id, tenant_id FROM files`,
  ],
  ['I6: a job that did not succeed has an output file', `UPDATE jobs SET state = 'cancelled', result = NULL`],
  ['I6: other bytes than the row says', `UPDATE files SET sha256 = decode(repeat('00', 32), 'hex')`],
  [
    'I6: a file has a row and no bytes',
    `INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256)
     VALUES ('${uuidv7()}', 'default', 'ready', 'a', 'text/plain', 1, decode(repeat('00', 32), 'hex'))`,
  ],
];

test.each(violations)('reports: %s', (name, sql) =>
  withHistory(async ({ client, check }) => {
    await client.query(sql);
    await expect(check()).rejects.toThrow(name);
  }),
);

test('bytes without a row, parts and scratch directories are swept, and nothing of them is reported', () =>
  withHistory(async ({ world, check }) => {
    await createFsStorage({ dir: join(world.dataDir, 'files') }).put(
      uuidv7(),
      Readable.from([Buffer.from('x')]),
      {
        sizeBytesMax: 1,
      },
    );
    writeFileSync(join(world.dataDir, 'files/parts/part'), '');
    mkdirSync(join(world.dataDir, 'scratch', uuidv7()), { recursive: true });
    await expect(check()).resolves.toBeUndefined();
  }));

test('reports: a process of a task that is still running', () =>
  withHistory(async ({ world, check }) => {
    const child = spawn('sleep', ['600'], {
      env: {
        PATH: '/usr/bin:/bin',
        HOME: join(world.dataDir, 'scratch'),
        [markVariable]: createMark('host'),
      },
    });
    await expect(check()).rejects.toThrow(`I11: a process of a task is still running: ${child.pid}`);
    child.kill('SIGKILL');
    await once(child, 'exit');
  }));

async function withHistory(
  work: (setup: { world: World; client: Client; check: () => Promise<void> }) => Promise<void>,
): Promise<void> {
  const world = await createWorld();
  const client = new Client({ connectionString: world.databaseUrl });
  await client.connect();
  try {
    const [job, file, worker] = [uuidv7(), uuidv7(), uuidv7()];
    const stored = await createFsStorage({ dir: join(world.dataDir, 'files') }).put(
      file,
      Readable.from([Buffer.from('made')]),
      {
        sizeBytesMax: 10,
      },
    );
    await client.query(`
      INSERT INTO jobs (id, tenant_id, task, queue, state, fence, run_at, rank_at, input, result, attempts_used, attempts_max, crashes,
                        started_at, finished_at, retention_ms)
      VALUES ('${job}', 'default', 'test.echo', 'host', 'succeeded', 2, now(), now(), '{}', '{}', 2, 3, 1, now(), now(), 86400000);
      INSERT INTO attempts (job_id, tenant_id, fence, worker_id, started_at, finished_at, outcome) VALUES
        ('${job}', 'default', 1, '${worker}', now() - interval '4 s', now() - interval '3 s', 'crashed'),
        ('${job}', 'default', 2, '${worker}', now() - interval '2 s', now() - interval '1 s', 'succeeded');
      INSERT INTO files (id, tenant_id, state, name, media_type, size_bytes, sha256, job_id)
      VALUES ('${file}', 'default', 'ready', 'made.txt', 'text/plain', ${stored.sizeBytes}, decode('${stored.sha256}', 'hex'), '${job}');
    `);
    for (const type of ['queued', 'active', 'retrying', 'queued', 'active', 'succeeded']) {
      await client.query(`INSERT INTO events (tenant_id, job_id, type) VALUES ('default', $1, $2)`, [
        job,
        `job.${type}`,
      ]);
    }
    await work({ world, client, check: () => checkHistory(world, [job]) });
  } finally {
    await client.end();
    await world.dispose();
  }
}
