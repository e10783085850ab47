/**
 * `npm start`: the whole service on one machine, with nothing to configure. Wiring only; stopping goes api → workers →
 * mail → Redis → Postgres. Whatever ends this process, the others do not outlive it.
 */
import { fileURLToPath } from 'node:url';
import { ConfigError } from '#shared/config.ts';
import { createLifecycle } from '#shared/lifecycle.ts';
import { banner } from './start/banner.ts';
import { checkPort } from './start/check-port.ts';
import { DataDirLockedError, DataDirUnusableError, lockDataDir } from './start/data-dir-lock.ts';
import { createLogOutput, createOutputLogger } from './start/log-output.ts';
import { readOptions, usage, UsageError } from './start/read-options.ts';
import { startServers } from './start/start-servers.ts';
import { startService } from './start/start-service.ts';

const root = fileURLToPath(new URL('..', import.meta.url));

const options = await readOrQuit(() => readOptions(process.argv.slice(2), process.env));
if (options === 'help') {
  process.stdout.write(`${usage}\n`);
  process.exit(0);
}
const { config, dataDir } = options;
const unlock = await readOrQuit(() => lockDataDir(dataDir));
const port = await readOrQuit(() => checkPort(config));

let newKey: string | undefined;
const output = createLogOutput({
  level: config.LOG_LEVEL,
  isTerminal: process.stdout.isTTY,
  out: process.stdout,
  onAdminKey: (key) => (newKey = key),
});
const log = createOutputLogger(output, { service: 'start', level: config.LOG_LEVEL });
// More than all that is stopped may take together; each has a limit of its own.
const lifecycle = createLifecycle({ log, deadlineMs: 2 * config.WINDLASS_GRACE_MS + 60_000 });
lifecycle.onStop('data directory', unlock);
// As SIGPIPE would: whoever showed this is gone (`npm start | head`, a closed window). Without a listener each line that
// cannot be written is an uncaught error, whose line cannot be written either, and so on for ever.
process.stdout.on('error', () => lifecycle.stop('nobody reads the output any more'));
process.stderr.on('error', () => {});

try {
  process.stdout.write(`Starting Windlass in ${dataDir} …\n`);
  const servers = await startServers({ options, lifecycle, log, output });
  const { url } = await startService({ options, servers, port, root, lifecycle, log, output });
  process.stdout.write(
    banner({
      url,
      mailUrl: servers.mailUrl,
      dataDir,
      workers: options.workers,
      newKey,
      config,
      samplePhoto: `${root}examples/photos/alpine-lake.jpg`,
      cwd: process.env['INIT_CWD'] ?? process.cwd(),
    }),
  );
} catch (err) {
  // Stopped while it was starting: that is no failure.
  if (!lifecycle.stopping.aborted) lifecycle.fail(err, 'Windlass could not be started');
  // The key was made and is not made again: whatever else went wrong, it must not be lost.
  if (newKey !== undefined)
    process.stdout.write(`\nAdmin key: ${newKey}   (keep it: it is not shown again)\n`);
} finally {
  output.open();
}

/** For what the user can mend: a sentence instead of a stack. */
async function readOrQuit<Value>(read: () => Value | Promise<Value>): Promise<Value> {
  try {
    return await read();
  } catch (err) {
    const isForUser = [UsageError, ConfigError, DataDirLockedError, DataDirUnusableError].some(
      (type) => err instanceof type,
    );
    if (!(err instanceof Error && isForUser)) throw err;
    process.stderr.write(`${err.message}\n`);
    return process.exit(1);
  }
}
