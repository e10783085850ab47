/** A short run of the torture, and the parts of it that a run cannot show to be right: its plan and its judgement. */
import {
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { checkClientView } from './check-client-view.ts';
import { findLeaks, readFootprint } from './check-leaks.ts';
import { checkHolds } from './check-limits.ts';
import { faultKinds } from './faults.ts';
import type { HistoryEntry, HistoryEvent } from './history.ts';
import { jobKinds, type FinalJob } from './job-kinds.ts';
import { planStep } from './nemesis.ts';
import { applyEdits } from './plant.ts';
import { plants } from './plants.ts';
import { createRandom } from './random.ts';
import { scheduleKind } from './schedules.ts';
import { renderProblems, renderSummary } from './summary.ts';
import { runTorture } from './run-torture.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Another one finds other things: `npm run torture -- --seed …`. */
const seed = 20;
const minutes = 0.5;

test('every invariant holds through half a minute of faults', async () => {
  const log = (line: string) => void process.stdout.write(`torture: ${line}\n`);
  // Fewer workers and jobs than by hand: other tests want the processor, too.
  const size = { rate: 10, apis: 2, workers: 2 };
  const report = await runTorture({ seed, minutes, ...size, drainMs: 100_000, log });
  if (report.problems.length > 0) {
    const command = `npm run torture -- --seed ${seed} --minutes ${minutes} --rate ${size.rate} --workers ${size.workers}`;
    throw new Error(`${renderProblems(report, command)}\n\n${renderSummary(report)}`);
  }
  const kinds = new Set(report.entries.flatMap((entry) => (entry.type === 'fault' ? [entry.name] : [])));
  expect(kinds.size).toBeGreaterThan(3);
  expect(report.jobs.length).toBeGreaterThan(50);
});

test('the same seed gives the same faults at the same times, another seed gives others', () => {
  const size = { apis: 2, workers: 4 };
  const plan = (from: number) =>
    Array.from({ length: 50 }, (_, number) => {
      const { waitMs, fault } = planStep(createRandom(from), number, { kinds: faultKinds, size });
      return { waitMs, name: fault.name, target: fault.target, ms: fault.ms };
    });
  expect(plan(1)).toEqual(plan(1));
  expect(plan(1)).not.toEqual(plan(2));
});

const migrationsDir = 'shared/db/migrations';

test.each(plants)('the planted bug "$name" finds the place where it goes', (plant) => {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-plant-'));
  try {
    for (const { file } of plant.edits)
      cpSync(join(root, dirname(file)), join(dir, dirname(file)), { recursive: true });
    expect(() => applyEdits(plant, dir)).not.toThrow();
    // A function that a later migration makes anew would undo it.
    const migrations = readdirSync(join(root, migrationsDir));
    for (const { file, text } of plant.edits.filter((edit) => dirname(edit.file) === migrationsDir))
      for (const later of migrations.filter((name) => name > basename(file)))
        expect(readFileSync(join(root, migrationsDir, later), 'utf8')).not.toContain(text);
    expect(plant.faults.filter((name) => !faultKinds.some((kind) => kind.name === name))).toEqual([]);
    const kinds = [scheduleKind, ...jobKinds.map((kind) => kind.name)];
    expect(plant.kinds?.filter((name) => !kinds.includes(name)) ?? []).toEqual([]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

const id = '0195b7e4-5d3c-7000-8000-000000000001';
const finishedAt = '2026-01-01T00:00:00.000Z';
const wanted: HistoryEvent = {
  type: 'wanted',
  request: 1,
  kind: 'same key twice',
  tenant: 'default',
  key: 'key-1',
  expected: { n: 5 },
};
const accepted: HistoryEvent = { type: 'accepted', request: 1, id, status: 202, replayed: false };
const seen: HistoryEvent = {
  type: 'seen',
  id,
  state: 'succeeded',
  attempts: 1,
  finishedAt,
  result: { n: 5 },
  error: null,
};
const job: FinalJob = {
  id,
  tenant: 'default',
  tags: ['request:1'],
  task: 'test.noop',
  item: null,
  state: 'succeeded',
  result: { n: 5 },
  error: null,
  uniqueKey: null,
  createdAt: '2025-12-31T23:59:59.000Z',
  attemptsUsed: 1,
  attemptsMax: 3,
  crashes: 0,
  finishedAt,
  outcomes: ['succeeded'],
  firstRunAfterMs: 5,
  outputs: [],
  effects: [],
  posts: 0,
  mails: 0,
  messageIds: 0,
};

function check(events: readonly HistoryEvent[], jobs: readonly FinalJob[]): string[] {
  return checkClientView(
    events.map((event, at): HistoryEntry => ({ at, ...event })),
    jobs,
  );
}

test('a history in which all is well has no problems', () => {
  expect(check([wanted, accepted, seen], [job])).toEqual([]);
});

const otherId = id.replace(/1$/, '2');
const violations: readonly { what: string; events?: readonly HistoryEvent[]; jobs: readonly FinalJob[] }[] = [
  { what: 'I1: the accepted job', jobs: [] },
  { what: 'I4: one key made 2 jobs', jobs: [job, { ...job, id: otherId }] },
  {
    what: 'I4: one key was answered with',
    events: [wanted, accepted, { ...accepted, id: otherId }],
    jobs: [job],
  },
  {
    what: 'I5: a request that was sent once made 2 jobs',
    events: [{ ...wanted, key: null }, accepted],
    jobs: [job, { ...job, id: otherId }],
  },
  {
    what: 'I5: a request that was refused made a job',
    events: [wanted, { type: 'refused', request: 1, status: 422, body: '' }],
    jobs: [job],
  },
  { what: 'I5: nobody wanted the job', jobs: [job, { ...job, id: otherId, tags: ['request:7'] }] },
  { what: 'I12: a job belongs to another tenant', jobs: [{ ...job, tenant: 'other' }] },
  { what: 'has the result {"n":6}', jobs: [{ ...job, result: { n: 6 } }] },
  {
    what: 'ended as failed (task-failed)',
    jobs: [{ ...job, state: 'failed', error: { code: 'task-failed' } }],
  },
  {
    what: 'ended as failed (crashed)',
    jobs: [{ ...job, state: 'failed', error: { code: 'crashed' }, crashes: 1 }],
  },
  { what: 'ended as cancelled', jobs: [{ ...job, state: 'cancelled', result: null }] },
  {
    what: 'I3: the job was answered to be cancelled',
    events: [wanted, accepted, { type: 'cancel-answered', id, status: 202, state: 'cancelled' }],
    jobs: [job],
  },
  {
    what: 'was seen as {"state":"succeeded"',
    events: [wanted, accepted, { ...seen, result: { n: 6 } }],
    jobs: [job],
  },
  {
    what: 'I10: the job was seen at its end, and then as active',
    events: [wanted, accepted, seen, { ...seen, state: 'active' }],
    jobs: [job],
  },
  {
    what: 'I10: the job was seen with 1 ended attempts, and then with 0',
    events: [wanted, accepted, { ...seen, state: 'queued' }, { ...seen, state: 'queued', attempts: 0 }],
    jobs: [job],
  },
  {
    what: 'F57: ran after 5 ms instead of 900 ms',
    events: [{ ...wanted, kind: 'delayed', expected: { n: 5, delayMs: 900 } }, accepted],
    jobs: [job],
  },
  {
    what: 'took effect 2 times',
    events: [{ ...wanted, kind: 'post, at most once' }, accepted],
    jobs: [{ ...job, posts: 2, effects: [{ key: 'post', isFinished: true }] }],
  },
];

const uniqueJob: FinalJob = {
  ...job,
  tags: ['request:1'],
  uniqueKey: 'k',
  task: 'test.post',
  result: { status: 204 },
  posts: 1,
  effects: [{ key: 'post', isFinished: true }],
};
const uniqueEvents: readonly HistoryEvent[] = [
  { ...wanted, kind: 'unique key', expected: { uniqueKey: 'k' } },
  accepted,
  { ...wanted, kind: 'unique key', expected: { uniqueKey: 'k' }, request: 2, key: 'key-2' },
];
const bornAt = Date.parse(uniqueJob.createdAt);
const duplicate: HistoryEvent = {
  type: 'duplicate',
  request: 2,
  id,
  sentAt: bornAt,
  answeredAt: bornAt + 100,
};

test('a request that was answered with the job that has its unique key is no problem', () => {
  expect(check([...uniqueEvents, duplicate], [uniqueJob])).toEqual([]);
});

const falseDuplicates: readonly { what: string; event?: object; jobs?: readonly FinalJob[] }[] = [
  { what: 'which does not exist', event: { id: otherId } },
  { what: 'which has the unique key other', jobs: [{ ...uniqueJob, uniqueKey: 'other' }] },
  { what: 'which did not live at that time', event: { sentAt: bornAt - 200, answeredAt: bornAt - 100 } },
  {
    what: 'which did not live at that time',
    event: { sentAt: bornAt + 60_000, answeredAt: bornAt + 60_001 },
  },
  {
    what: 'I15: a request that was answered with the job of another one made a job',
    jobs: [uniqueJob, { ...uniqueJob, id: otherId, tags: ['request:2'] }],
  },
];

test.each(falseDuplicates)('of a unique key, reports: $what', ({ what, event = {}, jobs = [uniqueJob] }) => {
  expect(check([...uniqueEvents, { ...duplicate, ...event }], jobs).join('\n')).toContain(what);
});

const parts = ['first', 'last'];
const batchOf = (names: readonly string[]) =>
  names.map((name, index) => ({
    ...job,
    id: id.replace(/.$/, String(index)),
    tags: ['request:1', `part:${name}`],
  }));

test('what is accepted as a whole is there as a whole, and each part once', () => {
  const events: readonly HistoryEvent[] = [
    {
      ...wanted,
      kind: 'batch',
      whole: parts,
      expected: { first: { n: 5 }, last: { n: 5 } },
    },
  ];
  expect(check(events, batchOf(parts))).toEqual([]);
  expect(check(events, batchOf(['first'])).join()).toContain('I5: half of it was accepted: last is missing');
  expect(check(events, batchOf([...parts, 'last'])).join()).toContain('I4: one key made 2 jobs of last');
});

test('two of one concurrency key at the receiver are reported, unless the first was over by the record', () => {
  const hold = (jobId: string, from: number, until: number | undefined) => ({
    key: 'k',
    jobId,
    from,
    until,
  });
  const jobs = [job, { ...job, id: otherId }];
  const one = hold(id, 100, 200);
  expect(checkHolds([one, hold(otherId, 200, 300)], jobs, [])).toEqual([]);
  expect(checkHolds([one, hold(otherId, 150, 300)], jobs, [])).toHaveLength(1);
  expect(checkHolds([hold(id, 100, undefined), hold(otherId, 900, 950)], jobs, [])).toHaveLength(1);
  const crashed = { jobId: id, startedAt: 90, finishedAt: 140 };
  expect(checkHolds([one, hold(otherId, 150, 300)], jobs, [crashed])).toEqual([]);
  // Over too late.
  expect(checkHolds([one, hold(otherId, 130, 300)], jobs, [crashed])).toHaveLength(1);
  const others = [job, { ...job, id: otherId, tenant: 'other' }];
  expect(checkHolds([one, hold(otherId, 150, 300)], others, [])).toEqual([]);
});

test('I13: files that are still open, too many descriptors, memory and processes are reported', () => {
  const base = { descriptors: 40, files: [], rssBytes: 100_000_000, children: 2 };
  expect(findLeaks('worker', base, base, 4)).toEqual([]);
  const now = { descriptors: 140, files: ['/data/files/ab/x'], rssBytes: 500_000_000, children: 5 };
  expect(findLeaks('worker', now, base, 4)).toEqual([
    'I13: worker still holds the file /data/files/ab/x',
    'I13: worker has 5 child processes instead of at most 4',
    'I13: worker holds 140 descriptors, and held 40 at first',
    'I13: worker holds 477 MB, and held 95 MB at first',
  ]);
});

test('the footprint of a process names the stored files that it holds open', () => {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-footprint-'));
  mkdirSync(join(dir, 'files'));
  const path = join(dir, 'files', 'x');
  const file = openSync(path, 'w');
  expect(readFootprint(process.pid, dir)?.files).toEqual([path]);
  closeSync(file);
  expect(readFootprint(process.pid, dir)).toMatchObject({ files: [] });
  rmSync(dir, { recursive: true });
});

test.each(violations)('reports: $what', ({ what, events = [wanted, accepted], jobs }) => {
  const problems = check(events, jobs).map((problem) => problem.replaceAll(id, 'the job'));
  expect(problems.join('\n')).toContain(what);
});
