/**
 * F43: a worker is killed between any two steps of a run. Each case starts a worker that dies at the named point, once
 * for each job, and then one that does not.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import type { CrashPoint } from '#shared/crash-point.ts';
import type { TestJob } from '#test/support/service.ts';
import { withSystem } from '#test/support/system.ts';
import { expectOneRunEach } from './expect-jobs.ts';

interface CrashingJob {
  readonly task: 'test.write' | 'test.effect' | 'test.noop';
  readonly input?: Readonly<Record<string, unknown>>;
  /** Outcomes of its attempts, the run of the killed worker first. */
  readonly attempts: readonly string[];
  /** How often its effect outside took place. */
  readonly effects?: number;
  /** Default: it succeeds. */
  readonly error?: string;
}

const crashed = ['crashed', 'succeeded'];

const cases: readonly { point: CrashPoint; after: string; jobs: readonly CrashingJob[] }[] = [
  {
    point: 'run.before-claim',
    after: 'the delivery is offered again, and no attempt is used',
    jobs: [{ task: 'test.write', attempts: ['succeeded'] }],
  },
  {
    point: 'run.after-claim',
    after: 'the job runs again',
    jobs: [{ task: 'test.write', attempts: crashed }],
  },
  {
    point: 'run.during-task',
    after: 'the job runs again',
    jobs: [
      { task: 'test.write', attempts: crashed },
      { task: 'test.effect', attempts: crashed, effects: 1 },
    ],
  },
  {
    point: 'run.after-effect',
    after: 'the effect is repeated or the job fails, as the task chose',
    jobs: [
      { task: 'test.effect', input: { onUnknown: 'repeat' }, attempts: crashed, effects: 2 },
      {
        task: 'test.effect',
        input: { onUnknown: 'fail' },
        attempts: ['crashed', 'failed'],
        effects: 1,
        error: 'effect-unknown',
      },
    ],
  },
  {
    point: 'run.after-output',
    after: 'the job runs again, and the bytes of the first run go',
    jobs: [
      { task: 'test.write', attempts: crashed },
      { task: 'test.effect', attempts: crashed, effects: 1 },
    ],
  },
  {
    point: 'run.before-commit',
    after: 'the job runs again, and an effect that was done is not repeated',
    jobs: [
      { task: 'test.write', attempts: crashed },
      { task: 'test.effect', attempts: crashed, effects: 1 },
      { task: 'test.noop', attempts: crashed },
    ],
  },
  {
    point: 'run.after-commit',
    after: 'the job has ended and does not run again',
    jobs: [
      { task: 'test.write', attempts: ['succeeded'] },
      { task: 'test.effect', attempts: ['succeeded'], effects: 1 },
      { task: 'test.noop', attempts: ['succeeded'] },
    ],
  },
];

const queueOf = { 'test.write': 'host', 'test.effect': 'effect', 'test.noop': 'noop' } as const;

test.concurrent.each(cases)('F43: killed at $point: $after', ({ point, jobs }) =>
  withSystem({}, async (system) => {
    const dying = await Promise.all(
      jobs.map((job) => system.startWorker({ CRASH_AT: point, WINDLASS_QUEUES: `${queueOf[job.task]}:1` })),
    );
    const ids: string[] = [];
    for (const job of jobs) {
      const input = job.task === 'test.effect' ? { dir: system.marks, ...job.input } : { ...job.input };
      ids.push(await system.submit(job.task, input));
    }
    expect(await Promise.all(dying.map((worker) => worker.exited))).toEqual(jobs.map(() => null));
    await system.startWorker();
    const ended = await system.finished(ids);
    for (const [index, job] of jobs.entries()) {
      expect(summarize(ended[index], system.marks)).toEqual({
        state: job.error === undefined ? 'succeeded' : 'failed',
        error: job.error,
        attempts: job.attempts,
        files: job.task === 'test.noop' || job.error !== undefined ? 0 : 1,
        effects: job.effects ?? 0,
      });
    }
  }),
);

test.concurrent.each([
  { point: 'run.before-claim', areHeld: true },
  { point: 'run.after-claim', areHeld: true },
  // What was claimed is in no bundle any more.
  { point: 'run.after-commit', areHeld: false },
])(
  'F43: a worker that is killed at $point with several bundles in its hands loses nothing of them',
  ({ point, areHeld }) =>
    withSystem({ env: { BUNDLE_SIZE: '8' } }, async (system) => {
      // They become due, and so the feeder packs them.
      for (let n = 0; n < 40; n += 1) await system.submit('test.noop', { n }, { delayMs: 1 });
      const dying = system.startUnreadyWorker({ CRASH_AT: point, WINDLASS_QUEUES: 'noop:20' });
      expect(await dying.exited).toBeNull();
      const redis = new Redis(system.world.redisUrl);
      const bundles = await redis.keys(`${system.world.redisPrefix}:noop:b_*`);
      expect(bundles.length > 1 || !areHeld).toBe(true);
      redis.disconnect();
      await Promise.all([1, 2].map(() => system.startWorker()));
      for (const job of await system.finished())
        expect([job.state, job.attempts.at(-1)?.outcome]).toEqual(['succeeded', 'succeeded']);
    }),
);

test.concurrent('F42: a worker that was killed between marking jobs as dispatched and adding them to Redis delays them until the next repair', () =>
  withSystem({}, async (system) => {
    // Not dispatched by the api: they become due, and wait for a feeder.
    for (let n = 0; n < 20; n += 1) await system.submit('test.noop', { n }, { delayMs: 1 });
    const dying = system.startUnreadyWorker({ CRASH_AT: 'feed.after-marks' });
    expect(await dying.exited).toBeNull();
    const { rows } = await system.db.query(
      'SELECT count(*) AS count FROM jobs WHERE dispatched_at IS NOT NULL AND fence = 0',
    );
    expect(rows).toEqual([{ count: 20 }]);
    const redis = new Redis(system.world.redisUrl);
    expect(await redis.llen(`${system.world.redisPrefix}:noop:wait`)).toBe(0);
    redis.disconnect();
    await system.startWorker();
    await expectOneRunEach(system);
  }));

function summarize(job: TestJob | undefined, marks: string) {
  const effects = join(marks, `effects-${job?.id}`);
  return {
    state: job?.state,
    error: job?.error?.code,
    attempts: job?.attempts.map((attempt) => attempt.outcome),
    files: job?.files.length,
    effects: existsSync(effects) ? readFileSync(effects, 'utf8').length : 0,
  };
}
