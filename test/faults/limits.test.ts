/** Limits between jobs while several processes work at once and some of them die. */
import { expect, test } from 'vitest';
import { createClient } from '#test/support/service.ts';
import { withSystem } from '#test/support/system.ts';

test.concurrent('fifty equal requests with one unique key at two apis are one job, and all others learn which', () =>
  withSystem({}, async (system) => {
    const other = createClient((await system.startApi()).url);
    const job = { task: 'test.noop', input: { n: 1 }, options: { uniqueKey: { key: 'k' } } };
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, n) => (n % 2 === 0 ? system.client : other).post('/v1/jobs', job)),
    );
    const bodies = (await Promise.all(answers.map((answer) => answer.json()))) as { id: string }[];
    expect(answers.filter((answer) => answer.status === 202)).toHaveLength(1);
    expect(answers.filter((answer) => answer.headers.get('windlass-duplicate') === 'true')).toHaveLength(49);
    expect(new Set(bodies.map((body) => body.id)).size).toBe(1);
    system.accepted.push(...new Set(bodies.map((body) => body.id)));
    await system.startWorker();
    await system.finished();
    const next = await system.client.post('/v1/jobs', job);
    expect(next.status).toBe(202);
    system.accepted.push(((await next.json()) as { id: string }).id);
    await system.finished();
  }));

test.concurrent('jobs of one key run one after the other on two workers, also when one of them is killed', () =>
  withSystem({}, async (system) => {
    const slots = { WINDLASS_SLOTS: '4' };
    const first = await system.startWorker(slots);
    const ids: string[] = [];
    for (let n = 0; n < 12; n += 1)
      ids.push(
        await system.submit('test.sleep', { ms: 100, dir: system.marks }, { concurrencyKey: `k${n % 2}` }),
      );
    await system.started(ids.slice(0, 2));
    await system.startWorker(slots);
    await first.kill();
    const jobs = await system.finished();
    expect(jobs.every((job) => job.state === 'succeeded')).toBe(true);
    // By the record: two runs of one key never overlap.
    const { rows } = await system.db.query(
      `SELECT a.job_id FROM attempts a JOIN jobs j ON j.id = a.job_id
       JOIN attempts b ON (b.job_id, b.fence) <> (a.job_id, a.fence) AND b.started_at < a.finished_at AND b.finished_at > a.started_at
       JOIN jobs k ON k.id = b.job_id AND k.concurrency_key = j.concurrency_key`,
    );
    expect(rows).toEqual([]);
  }));
