import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { delimiter, join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');
const bin = join(root, 'node_modules/.bin');

export interface Step {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
}

/** Everything that needs no server. */
export const checks: readonly Step[] = [
  { name: 'types', command: 'tsc', args: [] },
  { name: 'lint', command: 'oxlint', args: [] },
  { name: 'format', command: 'oxfmt', args: ['--check', '.'] },
  { name: 'dead code', command: 'knip', args: ['--no-config-hints'] },
  { name: 'generated files', command: process.execPath, args: ['scripts/generate.ts', '--check'] },
];

/**
 * Runs the steps one after the other, each under its heading, all of them even when one fails: who mends five things
 * wants to know of five.
 * @returns the names of those that failed.
 */
export async function runSteps(steps: readonly Step[]): Promise<string[]> {
  const failed: string[] = [];
  for (const { name, command, args } of steps) {
    process.stdout.write(`\n── ${name}\n`);
    const child = spawn(command, args, {
      cwd: root,
      stdio: 'inherit',
      env: { ...process.env, PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}` },
    });
    let asked: NodeJS.Signals | undefined;
    const stop = (signal: NodeJS.Signals) => {
      // Ctrl-C reaches the step by itself, and twice would cut its clearing up short.
      if (asked === undefined && !(signal === 'SIGINT' && process.stdin.isTTY)) child.kill(signal);
      asked = signal;
    };
    process.on('SIGINT', stop).on('SIGTERM', stop);
    const [code] = (await once(child, 'exit')) as [number | null];
    process.off('SIGINT', stop).off('SIGTERM', stop);
    // Who stops one step wants none of the others.
    if (asked !== undefined) process.exit(128 + constants.signals[asked]);
    if (code !== 0) failed.push(name);
  }
  return failed;
}
