/**
 * Progress and log lines of a run, coalesced: a handler may report ten thousand times a second, Postgres sees at
 * most two writes a second per job (faults.md, F58).
 */
import { appendLogs, type LogLine } from '#shared/db/job-logs.ts';
import { saveProgress } from '#shared/db/jobs.ts';
import type { ClaimedJob } from '#shared/db/claim-jobs.ts';
import type { Db } from '#shared/db/pool.ts';
import { cleanText } from '#shared/domain/text.ts';

export interface JobReports {
  progress(percent: number, message: string | undefined): void;
  log(message: string): void;
  /** Forgets the progress that was not written yet. */
  dropProgress(): void;
  /** Writes what has gathered. */
  flush(): Promise<void>;
}

const flushMs = 500;

export function createReports(options: { db: Db; job: ClaimedJob; logLinesMax: number }): JobReports {
  const { db, job, logLinesMax } = options;
  const run = { jobId: job.id, fence: job.fence, workerId: job.workerId, tenantId: job.tenantId };
  let progress: { percent: number; message: string | null } | undefined;
  let lines: LogLine[] = [];
  let lineCount = 0;
  let timer: NodeJS.Timeout | undefined;
  let flushing: Promise<void> = Promise.resolve();

  function schedule(): void {
    // Reports are a courtesy: when Postgres is away they are lost, the run is not.
    timer ??= setTimeout(() => void flush().catch(() => {}), flushMs);
  }

  function flush(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    if (progress === undefined && lines.length === 0) return flushing;
    const newest = progress;
    const batch = lines;
    progress = undefined;
    lines = [];
    flushing = flushing
      .catch(() => {})
      .then(async () => {
        if (newest !== undefined) await saveProgress(db, [{ ...run, ...newest }]);
        if (batch.length > 0) await appendLogs(db, run, batch);
      });
    return flushing;
  }

  return {
    progress(percent, message) {
      const clamped = Number.isFinite(percent)
        ? Math.round(Math.min(100, Math.max(0, percent)) * 10) / 10
        : 0;
      progress = { percent: clamped, message: message === undefined ? null : cleanText(message, 1_000) };
      schedule();
    },
    log(message) {
      if (lineCount > logLinesMax) return;
      const text =
        lineCount === logLinesMax
          ? `… further lines were dropped (WINDLASS_LOG_LINES_MAX is ${logLinesMax}).`
          : cleanText(message, 1_000);
      lines.push({ line: lineCount, at: new Date(), message: text });
      lineCount += 1;
      schedule();
    },
    dropProgress() {
      progress = undefined;
    },
    flush,
  };
}
