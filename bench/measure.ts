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

/** Runs ours and what it is compared with in turns, so that whatever else the machine does hits all. @returns each one's runs. */
export async function inTurns<Runs extends Readonly<Record<string, () => Promise<unknown>>>>(
  count: number,
  runs: Runs,
): Promise<{ [Name in keyof Runs]: Awaited<ReturnType<Runs[Name]>>[] }> {
  const results = Object.fromEntries(Object.keys(runs).map((name) => [name, [] as unknown[]]));
  for (let index = 0; index < count; index += 1) {
    for (const [name, run] of Object.entries(runs)) results[name]?.push(await run());
  }
  return results as { [Name in keyof Runs]: Awaited<ReturnType<Runs[Name]>>[] };
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
