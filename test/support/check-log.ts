/** I14: what no log may hold, whatever broke: an error that nobody caught, and a storm of the same line. */

export interface LogEntry {
  readonly level: number;
  readonly time: string;
  readonly msg: string;
  readonly jobId?: string;
  readonly requestId?: string;
}

const sameLinesPerSecondMax = 20;

/** @returns what is wrong with the log of one process; nothing when all is well. */
export function findLogProblems(name: string, lines: readonly string[]): string[] {
  const problems: string[] = [];
  const counts = new Map<string, number>();
  for (const line of lines) {
    const entry = parseLine(line);
    if (entry === undefined) continue;
    if (/^(uncaught exception|unhandled rejection)$/.test(entry.msg)) problems.push(`I14: ${name}: ${line}`);
    // One line per job is news; more than one job may have it in the same second.
    if (entry.level < 40 || entry.jobId !== undefined || entry.requestId !== undefined) continue;
    const key = `${entry.time.slice(0, 19)} ${entry.msg}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  for (const [line, count] of counts) {
    if (count > sameLinesPerSecondMax)
      problems.push(`I14: ${name} wrote ${count} times in one second: ${line}`);
  }
  return problems;
}

/** Undefined for what is not a line of our logger. */
export function parseLine(line: string): LogEntry | undefined {
  try {
    const entry = JSON.parse(line) as LogEntry;
    return typeof entry.msg === 'string' && typeof entry.time === 'string' ? entry : undefined;
  } catch {
    return undefined;
  }
}
