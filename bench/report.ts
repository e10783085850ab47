/** The one table, and the files it is kept in. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { isReached, median, ratioOf, type Figure } from './measure.ts';

export interface Report {
  readonly date: string;
  readonly runs: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly figures: readonly Figure[];
}

export function renderTable(figures: readonly Figure[]): string {
  const lines = figures.map((figure) => {
    const ratio = ratioOf(figure);
    const goal = 'atLeast' in figure.reach ? `≥ ${figure.reach.atLeast}` : `≤ ${figure.reach.atMost}`;
    const cells = [
      figure.what,
      `${round(median(figure.ours))} ${figure.unit}`,
      figure.reference === undefined
        ? ''
        : `${round(median(figure.reference))} ${figure.unit} (${figure.referenceIs ?? ''})`,
      ratio === undefined ? '' : ratio.toFixed(2),
      ratio === undefined ? `${goal} ${figure.unit}` : goal,
      isReached(figure) ? 'yes' : 'NO',
    ];
    return `| ${cells.join(' | ')} |`;
  });
  return [
    '| measure | ours | reference | ratio | reach | reached |',
    '|---|---|---|---|---|---|',
    ...lines,
  ].join('\n');
}

function round(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en-US') : value.toFixed(1);
}

/** Writes `<date>.json` with every run, and `latest.md` with the table. @returns the path of the latter. */
export function writeReport(dir: string, report: Report): string {
  mkdirSync(dir, { recursive: true });
  writeFileSync(
    join(dir, `${report.date}.json`),
    `${JSON.stringify({ ...report, cores: availableParallelism() }, null, 2)}\n`,
  );
  const versions = Object.entries(report.versions).map(([name, version]) => `${name} ${version}`);
  const text = [
    '# Benchmark',
    '',
    `${report.date}, ${availableParallelism()} cores; load, api, worker, Postgres and Redis all on them. ${versions.join(', ')}.`,
    'Postgres with fsync and synchronous commit, Redis with its append-only file; everything else as by default.',
    '',
    renderTable(report.figures),
    '',
    `Medians of ${report.runs} runs; ours and the reference in turns, ratio = median of the ratios of neighbours. \`npm run bench\` repeats it.`,
    '',
  ];
  const file = join(dir, 'latest.md');
  writeFileSync(file, text.join('\n'));
  return file;
}
