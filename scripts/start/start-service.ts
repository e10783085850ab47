import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '#shared/config.ts';
import type { Lifecycle } from '#shared/lifecycle.ts';
import type { Logger } from '#shared/log.ts';
import { childLevel, type LogOutput } from './log-output.ts';
import type { StartOptions } from './read-options.ts';
import { launchServiceProcess } from './service-process.ts';
import type { Servers } from './start-servers.ts';
import { supervise } from './supervise.ts';

/** Beyond its own deadline, before it is killed. */
const marginMs = 15_000;
const answerMs = 60_000;

/** Starts the api, which migrates the database, then the workers, and keeps them running. */
export async function startService(context: {
  options: StartOptions;
  servers: Servers;
  port: number;
  root: string;
  lifecycle: Lifecycle;
  log: Logger;
  output: LogOutput;
}): Promise<{ url: string }> {
  const { options, servers, lifecycle, log, output } = context;
  const { config } = options;
  const url = `http://${urlHost(config.HOST)}:${context.port}`;
  const env = {
    ...process.env,
    DATABASE_URL: servers.databaseUrl,
    REDIS_URL: servers.redisUrl,
    ...(servers.smtpUrl !== undefined && { SMTP_URL: servers.smtpUrl }),
    WINDLASS_DATA_DIR: options.dataDir,
    PORT: String(context.port),
    LOG_LEVEL: childLevel(config.LOG_LEVEL),
  };
  const launch = (name: string, file: string, signal: AbortSignal) =>
    launchServiceProcess({
      name,
      file: join(context.root, file),
      cwd: context.root,
      env,
      stopMs: config.WINDLASS_GRACE_MS + marginMs,
      onLine: (line) => output.line(name, line),
      signal,
    });
  const onGiveUp = (err: Error) => lifecycle.fail(err, 'giving up');

  const workers: { stop(): Promise<void> }[] = [];
  lifecycle.onStop('workers', async () => {
    await Promise.all(workers.map((worker) => worker.stop()));
  });
  const api = supervise({
    name: 'api',
    onGiveUp,
    log,
    launch: async (signal) => {
      const launched = await launch('api', 'api/main.ts', signal);
      try {
        await waitUntilItAnswers(url, { signal, exited: launched.exited });
      } catch (err) {
        await launched.stop();
        throw err;
      }
      return launched;
    },
  });
  lifecycle.onStop('api', () => api.stop());
  await api.ready;
  lifecycle.stopping.throwIfAborted();

  const started = Array.from({ length: options.workers }, (_, index) => {
    const name = `worker ${index + 1}`;
    const worker = supervise({
      name,
      onGiveUp,
      log,
      launch: (signal) => launch(name, 'worker/main.ts', signal),
    });
    workers.push(worker);
    return worker.ready;
  });
  await Promise.all(started);
  return { url };
}

/** @throws Error with what /readyz says when that is not 200 in time, or when the api ends. */
async function waitUntilItAnswers(
  url: string,
  api: { signal: AbortSignal; exited: Promise<string> },
): Promise<void> {
  let end: string | undefined;
  void api.exited.then((how) => (end = how));
  const deadline = performance.now() + answerMs;
  for (;;) {
    const problem = await fetch(`${url}/readyz`, { signal: api.signal }).then(
      async (response) => (response.ok ? undefined : await response.text()),
      (err: unknown) => String(err),
    );
    if (problem === undefined) return;
    api.signal.throwIfAborted();
    if (end !== undefined) throw new Error(`The api ended (${end}) before it answered.`);
    if (performance.now() > deadline) throw new Error(`The api is not ready: ${problem}`);
    await sleep(50);
  }
}

/** Where this machine reaches what listens on `host`. */
function urlHost(host: Config['HOST']): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}
