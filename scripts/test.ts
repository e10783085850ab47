/**
 * `npm test`: all checks, then all tests; arguments go to vitest (`npm test -- shared/db`). The runner's closing lines
 * come last, and the exit code is 0 only when everything was fine.
 */
import { checks, runSteps } from './check/run-steps.ts';

const failed = await runSteps(checks);
if (failed.length > 0) process.stdout.write(`\nFailed: ${failed.join(', ')}. The tests run all the same.\n`);
failed.push(
  ...(await runSteps([{ name: 'tests', command: 'vitest', args: ['run', ...process.argv.slice(2)] }])),
);
process.exitCode = failed.length === 0 ? 0 : 1;
