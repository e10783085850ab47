/** What a measure is, and how its runs become figures. */
import type { BenchServers } from './servers.ts';

export interface Bench {
  readonly servers: BenchServers;
  /** Fewer and shorter runs: to see that everything works, not to publish. */
  readonly isQuick: boolean;
  /** How often ours and the reference are run, in turns. */
  readonly runs: number;
  log(line: string): void;
}

export interface Measure {
  /** As given on the command line. */
  readonly name: string;
  run(bench: Bench): Promise<Figure[]>;
}

/** One line of the table. */
export interface Figure {
  readonly what: string;
  readonly unit: string;
  readonly ours: readonly number[];
  /** Run by run beside ours; undefined for absolute figures. */
  readonly reference?: readonly number[];
  readonly referenceIs?: string;
  readonly reach: Reach;
}

/** Bounds of the ratio to the reference when there is one, else of our own figure. */
export type Reach = { readonly atLeast: number } | { readonly atMost: number };

export function runCount(bench: Bench): number {
  return bench.isQuick ? 1 : bench.runs;
}

/** Runs ours and the reference in turns, so that whatever else the machine does hits both. */
export async function inTurns<Ours, Reference>(
  count: number,
  runs: { ours: () => Promise<Ours>; reference: () => Promise<Reference> },
): Promise<{ ours: Ours[]; reference: Reference[] }> {
  const ours: Ours[] = [];
  const reference: Reference[] = [];
  for (let index = 0; index < count; index += 1) {
    ours.push(await runs.ours());
    reference.push(await runs.reference());
  }
  return { ours, reference };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Nearest rank. @param share between 0 and 1. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

/**
 * Ours divided by the reference: the median over the turns. Each run is compared with the one beside it, because the
 * speed of a shared machine drifts more between minutes than between neighbours.
 */
export function ratioOf(figure: Figure): number | undefined {
  const { ours, reference } = figure;
  if (reference === undefined) return undefined;
  return median(ours.map((value, index) => value / (reference[index] ?? Number.NaN)));
}

export function isReached(figure: Figure): boolean {
  const value = ratioOf(figure) ?? median(figure.ours);
  return 'atLeast' in figure.reach ? value >= figure.reach.atLeast : value <= figure.reach.atMost;
}
