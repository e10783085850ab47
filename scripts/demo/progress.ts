import { setTimeout as sleep } from 'node:timers/promises';
import type { DemoClient, DemoJob } from './client.ts';

const width = 24;
const deadlineMs = 180_000;

/**
 * Waits for the end of all jobs, with one bar each: redrawn on a terminal, one line per ended job elsewhere.
 * @param jobs what to call it → the id of the job.
 */
export async function showProgress(
  client: DemoClient,
  jobs: ReadonlyMap<string, string>,
): Promise<Map<string, DemoJob>> {
  const latest = new Map<string, DemoJob>();
  const printed = new Set<string>();
  const isTerminal = process.stdout.isTTY;
  const until = performance.now() + deadlineMs;
  for (let round = 0; ; round += 1) {
    await Promise.all([...jobs].map(async ([name, id]) => latest.set(name, await client.job(id))));
    if (isTerminal && round > 0) process.stdout.write(`\u001b[${jobs.size}A`);
    for (const [name, job] of latest) {
      if (isTerminal) process.stdout.write(`\u001b[2K${line(name, job)}\n`);
      else if (isEnded(job) && !printed.has(name)) process.stdout.write(`${line(name, job)}\n`);
      if (isEnded(job)) printed.add(name);
    }
    if (printed.size === jobs.size) return latest;
    if (performance.now() > until)
      throw new Error(`${jobs.size - printed.size} jobs did not end within ${deadlineMs / 60_000} minutes.`);
    await sleep(100);
  }
}

function isEnded(job: DemoJob): boolean {
  return ['succeeded', 'failed', 'cancelled'].includes(job.state);
}

function line(name: string, job: DemoJob): string {
  const filled = Math.round((job.progress.percent / 100) * width);
  return `   ${name.padEnd(22)} ${'█'.repeat(filled)}${'░'.repeat(width - filled)} ${job.state}`;
}
