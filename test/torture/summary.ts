import { faultKinds } from './faults.ts';
import type { HistoryEntry } from './history.ts';
import type { FinalJob } from './job-kinds.ts';
import { scheduleKind } from './schedules.ts';
import type { TortureReport } from './run-torture.ts';
import { requestOf } from './tags.ts';

/** What a person wants to read after a run: jobs by kind and end, faults by kind, and how long recovery took. */
export function renderSummary(report: TortureReport): string {
  const { entries, jobs } = report;
  return [
    'Jobs, by kind and end',
    ...renderJobs(entries, jobs),
    '',
    'Faults, and how long until a job that was sent after them had gone through, in ms',
    ...renderFaults(entries),
  ].join('\n');
}

/** One broken guard can be reported a thousand times, and may not hide another one. */
const shownOfOneMax = 10;

/** What to read, and to do, when something is wrong. */
export function renderProblems(report: TortureReport, command: string): string {
  const byInvariant = Map.groupBy(report.problems, (problem) => /^[A-Z]\d+[^:]*/.exec(problem)?.[0] ?? '');
  const shown = [...byInvariant.values()].flatMap((problems) => problems.slice(0, shownOfOneMax));
  return [
    `${report.problems.length} invariant(s) do not hold (seed ${report.seed}):`,
    ...shown,
    ...(report.problems.length > shown.length ? [`… and ${report.problems.length - shown.length} more`] : []),
    '',
    'What the nemesis did:',
    ...report.entries.flatMap(renderFault),
    '',
    `History, record and logs: ${report.folder}`,
    `Again: ${command}`,
  ].join('\n');
}

function renderFault(entry: HistoryEntry): string[] {
  const at = `${(entry.at / 1_000).toFixed(1).padStart(7)} s  `;
  if (entry.type === 'fault')
    return [`${at}${entry.name} of ${entry.target}${entry.ms > 0 ? ` for ${entry.ms} ms` : ''}`];
  if (entry.type === 'phase') return [`${at}── ${entry.name}`];
  if (entry.type === 'process-ended' && !entry.wanted)
    return [`${at}   ${entry.name} ended by itself with ${entry.code}`];
  return [];
}

function renderJobs(entries: readonly HistoryEntry[], jobs: readonly FinalJob[]): string[] {
  const kinds = new Map(
    entries.flatMap((entry) => (entry.type === 'wanted' ? [[entry.request, entry.kind]] : [])),
  );
  const byKind = Map.groupBy(jobs, (job) =>
    job.tags.includes(scheduleKind) ? scheduleKind : (kinds.get(requestOf(job.tags) ?? -1) ?? 'probe'),
  );
  const rows = [...byKind]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([kind, group]) => {
      const ends = Map.groupBy(group, (job) =>
        job.error === null ? job.state : `${job.state} (${job.error.code})`,
      );
      const parts = [...ends].map(([end, { length }]) => `${length} ${end}`);
      const runs = group.reduce((sum, job) => sum + job.outcomes.length, 0);
      return `  ${kind.padEnd(24)} ${String(group.length).padStart(5)}   ${parts.join(', ')}; ${runs} runs`;
    });
  return [...rows, `  ${'all'.padEnd(24)} ${String(jobs.length).padStart(5)}`];
}

function renderFaults(entries: readonly HistoryEntry[]): string[] {
  const probes = entries.filter((entry) => entry.type === 'probe');
  const names = new Map<string, number[]>();
  for (const entry of entries) {
    if (entry.type !== 'fault-over') continue;
    const first = probes.find((probe) => probe.sentAt >= entry.at);
    const times = names.get(entry.name) ?? [];
    // The last ones may have no probe after them.
    names.set(entry.name, first === undefined ? times : [...times, first.at - entry.at]);
  }
  const rows = faultKinds.flatMap(({ name }) => {
    const times = names.get(name);
    return times === undefined ? [] : [renderTimes(name, times)];
  });
  return [...rows, renderTimes('all', [...names.values()].flat())];
}

function renderTimes(name: string, times: readonly number[]): string {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number) => String(sorted[Math.ceil(sorted.length * share) - 1] ?? '–').padStart(6);
  return `  ${name.padEnd(28)} ${String(times.length).padStart(4)} ×   p50 ${at(0.5)}   p95 ${at(0.95)}`;
}
