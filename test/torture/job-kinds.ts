/** The kinds of jobs that clients send, and what must have become of each in the end, whatever broke meanwhile. */
import { createHash } from 'node:crypto';
import { groupKinds, type Group } from './group-kinds.ts';
import { describe, failedWith, succeededWith, wasCrashed } from './judge.ts';
import type { Random } from './random.ts';

export interface WantedJob {
  readonly task: string;
  readonly input: Readonly<Record<string, unknown>>;
  readonly options?: Readonly<Record<string, unknown>>;
  /** With an Idempotency-Key the client repeats what was not answered; without one it must not. */
  readonly hasKey: boolean;
  /** How many clients send it at the same moment, with the same key. Default 1. */
  readonly copies?: number;
  /** Sent as multipart with the job, at once or with a pause after the file, or uploaded before the job. */
  readonly file?: { readonly text: string; readonly way: 'form' | 'slow form' | 'stored' };
  readonly cancelAfterMs?: number;
  /** Goes into the history; `judge` gets it back. */
  readonly expected: Readonly<Record<string, unknown>>;
}

/** Several jobs that belong together, sent with an Idempotency-Key. */
export interface WantedGroup extends Pick<WantedJob, 'hasKey' | 'expected'> {
  readonly group: Group;
}

/** What the record and the receivers say of a job. */
export interface FinalJob {
  readonly id: string;
  readonly tenant: string;
  readonly tags: readonly string[];
  readonly task: string;
  /** Its number, when it is an item of a step. */
  readonly item: number | null;
  readonly state: string;
  readonly result: any;
  readonly error: { readonly code: string } | null;
  readonly uniqueKey: string | null;
  readonly createdAt: string;
  readonly attemptsUsed: number;
  readonly attemptsMax: number;
  readonly crashes: number;
  readonly finishedAt: string | null;
  /** Oldest first. */
  readonly outcomes: readonly string[];
  /** From acceptance to the first run, in ms by the clock of the database. */
  readonly firstRunAfterMs: number | null;
  readonly outputs: readonly { readonly id: string; readonly sha256: string }[];
  readonly effects: readonly { readonly key: string; readonly isFinished: boolean }[];
  readonly posts: number;
  readonly mails: number;
  readonly messageIds: number;
}

export interface JobKind {
  readonly name: string;
  readonly weight: number;
  make(random: Random, target: { request: number; postUrl: string }): WantedJob | WantedGroup;
  /** @returns what is wrong; undefined when it ended as it may. */
  judge(job: FinalJob, expected: any): string | undefined;
}

const hasNumber = succeededWith((job, expected) => job.result.n === expected.n);

/** Backoffs of seconds would only make the end of a run longer. */
const quick = { attempts: 10, backoff: { type: 'fixed', delayMs: 300, maxMs: 300 } };

const singleKinds: readonly JobKind[] = [
  {
    name: 'inline',
    weight: 8,
    make: (random) => numbered(random, { hasKey: false }),
    judge: hasNumber,
  },
  {
    name: 'same key twice',
    weight: 5,
    make: (random) => numbered(random, { hasKey: true, copies: 2 }),
    judge: hasNumber,
  },
  {
    name: 'delayed',
    weight: 4,
    make(random) {
      const delayMs = random.int(200, 5_000);
      const job = numbered(random, { hasKey: true });
      return { ...job, options: { delayMs }, expected: { ...job.expected, delayMs } };
    },
    judge(job, expected) {
      if (job.firstRunAfterMs !== null && job.firstRunAfterMs < expected.delayMs)
        return `F57: ran after ${job.firstRunAfterMs} ms instead of ${expected.delayMs} ms`;
      return hasNumber(job, expected);
    },
  },
  {
    name: 'process',
    weight: 3,
    make: (random) => {
      const value = random.int(0, 1_000_000);
      return { task: 'test.echo', input: { value }, options: quick, hasKey: true, expected: { value } };
    },
    judge: succeededWith((job, expected) => job.result.value === expected.value),
  },
  {
    name: 'file',
    weight: 5,
    make(random) {
      const text = `${random.int(0, 1_000_000)} abcdefghij\n`.repeat(random.int(1, 5_000));
      const way = random.pick(['form', 'slow form', 'stored'] as const);
      const sha256 = createHash('sha256').update(text.toUpperCase()).digest('hex');
      return {
        task: 'test.files',
        input: {},
        options: quick,
        hasKey: true,
        file: { text, way },
        expected: { sha256 },
      };
    },
    judge: succeededWith(
      (job, expected) =>
        job.outputs.length === 1 &&
        job.outputs[0]?.sha256 === expected.sha256 &&
        job.outputs[0]?.id === job.result.files[0],
    ),
  },
  {
    name: 'fails, then succeeds',
    weight: 3,
    make(random) {
      const succeedsAt = random.int(2, 4);
      return {
        task: 'test.fail',
        input: { how: 'error', succeedsAt },
        options: quick,
        hasKey: true,
        expected: { succeedsAt },
      };
    },
    judge: succeededWith(
      (job, expected) => job.result.attempt >= expected.succeedsAt && job.result.attempt === job.attemptsUsed,
    ),
  },
  {
    name: 'cannot work',
    weight: 1,
    make: () => ({ task: 'test.fail', input: { how: 'invalid' }, hasKey: true, expected: {} }),
    judge: failedWith('task-input'),
  },
  {
    name: 'poison',
    weight: 1,
    make: (random) => ({
      task: 'test.crash',
      input: { how: random.pick(['exit', 'abort', 'kill']) },
      hasKey: true,
      expected: {},
    }),
    judge: (job) => (wasCrashed(job) ? undefined : `ended as ${describe(job)} after ${job.crashes} crashes`),
  },
  {
    name: 'slow',
    weight: 2,
    make: (random) => ({
      task: 'test.sleep',
      input: { ms: random.int(500, 5_000), ignoresAbort: random.chance(0.3) },
      options: quick,
      hasKey: true,
      expected: {},
    }),
    judge: succeededWith((job) => job.result.attempt === job.attemptsUsed),
  },
  {
    name: 'cancelled',
    weight: 2,
    make: (random) => ({
      task: 'test.sleep',
      // Nobody waits for this long: only a cancel ends it in time.
      input: { ms: 250_000, ignoresAbort: random.chance(0.3) },
      options: { delayMs: random.pick([0, 0, 1_000]) },
      hasKey: true,
      cancelAfterMs: random.int(0, 3_000),
      expected: {},
    }),
    judge: (job) => (job.state === 'cancelled' || wasCrashed(job) ? undefined : `ended as ${describe(job)}`),
  },
  {
    name: 'post, at least once',
    weight: 3,
    make: (_random, { postUrl }) => ({
      task: 'test.post',
      input: { url: postUrl },
      hasKey: true,
      expected: {},
    }),
    judge: succeededWith((job) => job.posts >= 1 && isOneFinished(job.effects)),
  },
  {
    name: 'slow post',
    weight: 3,
    make: (random, { postUrl }) => ({
      task: 'test.post',
      input: { url: postUrl, delayMs: random.int(1_000, 5_000) },
      hasKey: true,
      expected: {},
    }),
    judge: succeededWith((job) => job.posts >= 1 && isOneFinished(job.effects)),
  },
  {
    name: 'post, at most once',
    weight: 3,
    make: (_random, { postUrl }) => ({
      task: 'test.post',
      input: { url: postUrl, onUnknown: 'fail' },
      hasKey: true,
      expected: {},
    }),
    judge: atMostOnce((job) => job.posts),
  },
  {
    name: 'e-mail, at least once',
    weight: 2,
    make: (_random, { request }) => email(request, 'at-least-once'),
    judge: succeededWith((job) => job.mails >= 1 && job.messageIds === 1 && isOneFinished(job.effects)),
  },
  {
    name: 'e-mail, at most once',
    weight: 2,
    make: (_random, { request }) => email(request, 'at-most-once'),
    judge: atMostOnce((job) => job.mails),
  },
  {
    // Of the few keys one is often held: the request is then answered with the job that has it.
    name: 'unique key',
    weight: 4,
    make(random, { postUrl }) {
      const key = `unique-${random.int(1, 2)}`;
      return {
        task: 'test.post',
        input: { url: postUrl, delayMs: random.int(300, 3_000) },
        options: { uniqueKey: { key } },
        hasKey: true,
        expected: { uniqueKey: key },
      };
    },
    judge: succeededWith((job) => job.posts >= 1 && isOneFinished(job.effects)),
  },
  {
    // The receiver holds the request, and counts who else of this key is there.
    name: 'concurrency key',
    weight: 4,
    make(random, { postUrl }) {
      const key = `serial-${random.int(1, 2)}`;
      return {
        task: 'test.post',
        input: { url: `${postUrl}hold?key=${key}&ms=${random.int(50, 500)}` },
        options: { concurrencyKey: key },
        hasKey: true,
        expected: {},
      };
    },
    judge: succeededWith((job) => job.posts >= 1 && isOneFinished(job.effects)),
  },
  {
    name: 'rate',
    weight: 3,
    make: (random) => ({ ...numbered(random, { hasKey: true }), task: 'test.limited' }),
    judge: hasNumber,
  },
];

export const jobKinds: readonly JobKind[] = [...singleKinds, ...groupKinds];

function numbered(random: Random, how: Pick<WantedJob, 'hasKey' | 'copies'>): WantedJob {
  const n = random.int(0, 1_000_000);
  return { task: 'test.noop', input: { n }, expected: { n }, ...how };
}

function email(request: number, delivery: string): WantedJob {
  return {
    task: 'email.send',
    input: { to: ['ada@example.com'], subject: mailSubject(request), text: 'Hello.', delivery },
    options: quick,
    hasKey: true,
    expected: {},
  };
}

/** By which the mail server knows whose e-mail it is. */
export function mailSubject(request: number): string {
  return `torture ${request}`;
}

function isOneFinished(effects: FinalJob['effects']): boolean {
  return effects.length === 1 && effects[0]?.isFinished === true;
}

function atMostOnce(count: (job: FinalJob) => number): JobKind['judge'] {
  const isDone = succeededWith((job) => count(job) === 1 && isOneFinished(job.effects));
  return (job, expected) => {
    if (count(job) > 1) return `took effect ${count(job)} times`;
    if (job.state === 'failed' && job.error?.code === 'effect-unknown') return undefined;
    return isDone(job, expected);
  };
}
