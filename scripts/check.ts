/** `npm run check`: everything but the tests. */
import { checks, runSteps } from './check/run-steps.ts';

const failed = await runSteps(checks);
process.stdout.write(failed.length === 0 ? '\nAll checks are fine.\n' : `\nFailed: ${failed.join(', ')}.\n`);
process.exitCode = failed.length === 0 ? 0 : 1;
