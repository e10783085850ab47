/** The kinds of what clients send as a whole: jobs that wait for each other, and batches. */
import { isDeepStrictEqual } from 'node:util';
import type { FinalJob, JobKind } from './job-kinds.ts';
import { failedWith, succeededWith } from './judge.ts';
import type { Random } from './random.ts';
import { partOf } from './tags.ts';

/** One job of a group; its name goes into a tag by which it is found. */
export interface Part {
  readonly name: string;
  readonly task: string;
  readonly input: unknown;
  /** Names of parts before it that have to succeed. */
  readonly after?: readonly string[];
  /** A job for each of these. */
  readonly forEach?: readonly unknown[];
}

/**
 * `jobs`: a request for each, with `dependsOn`. `workflow`: one request, with `after` and what the inputs name. `batch`: one
 * request, whose last part waits for all others.
 */
export interface Group {
  readonly way: 'jobs' | 'workflow' | 'batch';
  readonly parts: readonly Part[];
}

/** How each part has to end: with this number, with this code, or because something before it failed. */
type Ends = Readonly<
  Record<
    string,
    { n: number } | { code: string } | { batchOf: number } | { items: readonly number[] } | 'cancelled'
  >
>;

const hasNumber = succeededWith((job, end) => job.result.n === end.n);
const knowsBatch = succeededWith(({ result: { batch } }, end) => {
  const { total, succeeded, failed, cancelled } = batch;
  return total === end.batchOf && succeeded + failed + cancelled === total;
});

const hasResults = succeededWith((job, end) =>
  isDeepStrictEqual(
    job.result,
    end.items.map((n: number) => ({ n })),
  ),
);

/** An item may have been given up as crashed; whether one was, the record says (check-limits.ts). */
function judgeItems(job: FinalJob, end: { items: readonly number[] }): string | undefined {
  if (job.item !== null) return hasNumber(job, { n: end.items[job.item] });
  return job.error?.code === 'item-failed' ? undefined : hasResults(job, end);
}

function judgePart(job: FinalJob, ends: Ends): string | undefined {
  const end = ends[partOf(job.tags) ?? ''];
  if (end === undefined) return 'is none of the parts that were sent';
  // Whether it was right to cancel it, the record says (check-limits.ts): a part before it may have been given up as crashed.
  if (job.state === 'cancelled' && job.error?.code === 'parent-failed') return undefined;
  if (end === 'cancelled') return `ended as ${job.state} although something before it failed`;
  if ('batchOf' in end) return knowsBatch(job, end);
  if ('items' in end) return judgeItems(job, end);
  return 'n' in end ? hasNumber(job, end) : failedWith(end.code)(job, end);
}

export const groupKinds: readonly JobKind[] = [
  {
    name: 'after another',
    weight: 2,
    make(random) {
      const first = numberOrFailure(random, 'first');
      const n = number(random);
      const last = { name: 'last', task: 'test.noop', input: { n }, after: ['first'] };
      return group('jobs', [first.part, last], {
        first: first.end,
        last: first.isFailing ? 'cancelled' : { n },
      });
    },
    judge: judgePart,
  },
  {
    name: 'workflow',
    weight: 2,
    make(random) {
      const n = number(random);
      const take = (from: string) => ({ n: { $from: from, path: 'n' } });
      const right = numberOrFailure(random, 'right');
      const parts = [
        { name: 'top', task: 'test.noop', input: { n } },
        { name: 'left', task: 'test.noop', input: take('top') },
        { ...right.part, after: ['top'] },
        { name: 'bottom', task: 'test.noop', input: take('left'), after: ['right'] },
        { name: 'end', task: 'test.noop', input: take('bottom') },
      ];
      const under = right.isFailing ? 'cancelled' : { n };
      return group('workflow', parts, {
        top: { n },
        left: { n },
        right: right.end,
        bottom: under,
        end: under,
      });
    },
    judge: judgePart,
  },
  {
    name: 'for each',
    weight: 1,
    make(random) {
      const items = Array.from({ length: random.int(1, 12) }, () => number(random));
      const parts: readonly Part[] = [
        { name: 'items', task: 'test.noop', input: { n: { $item: true } }, forEach: items },
        { name: 'last', task: 'test.noop', input: { n: { $from: 'items', path: '0.n' } } },
      ];
      return group('workflow', parts, { items: { items }, last: { n: items[0] ?? 0 } });
    },
    judge: judgePart,
  },
  {
    name: 'batch',
    weight: 2,
    make(random) {
      const items = Array.from({ length: random.int(2, 5) }, (_, index) =>
        numberOrFailure(random, `item-${index}`),
      );
      const last = { name: 'last', task: 'test.after-batch', input: { note: 'all done' } };
      return group('batch', [...items.map(({ part }) => part), last], {
        ...Object.fromEntries(items.map(({ part, end }) => [part.name, end])),
        last: { batchOf: items.length },
      });
    },
    judge: judgePart,
  },
];

function group(way: Group['way'], parts: readonly Part[], expected: Ends) {
  return { group: { way, parts }, hasKey: true, expected };
}

function number(random: Random): number {
  return random.int(0, 1_000_000);
}

/** In one case of four it cannot work. */
function numberOrFailure(random: Random, name: string) {
  const isFailing = random.chance(0.25);
  const n = number(random);
  const part: Part = isFailing
    ? { name, task: 'test.fail', input: { how: 'invalid' } }
    : { name, task: 'test.noop', input: { n } };
  return { part, isFailing, end: isFailing ? { code: 'task-input' } : { n } };
}
