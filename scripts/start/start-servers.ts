import { join } from 'node:path';
import type { Lifecycle } from '#shared/lifecycle.ts';
import type { Logger } from '#shared/log.ts';
import { findRedisServer } from '#scripts/embedded/find-redis-server.ts';
import { startMailCatcher } from '#scripts/embedded/mail-catcher.ts';
import { startPostgres, type PostgresServer } from '#scripts/embedded/postgres.ts';
import { startRedis, type RedisServer } from '#scripts/embedded/redis.ts';
import { createOutputLogger, type LogOutput } from './log-output.ts';
import type { StartOptions } from './read-options.ts';
import { supervise, type Launched } from './supervise.ts';

export interface Servers {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  /** Undefined: the user's own mail server is used, as configured. */
  readonly smtpUrl: string | undefined;
  readonly mailUrl: string | undefined;
}

/** Starts what the environment does not name a server for, and keeps it running. */
export async function startServers(context: ServersContext): Promise<Servers> {
  const { options, lifecycle } = context;
  const [databaseUrl, redisUrl] = await Promise.all([
    options.databaseUrl ?? keepPostgres(context),
    options.redisUrl ?? keepRedis(context),
  ]);
  lifecycle.stopping.throwIfAborted();
  if (options.smtpUrl !== undefined) return { databaseUrl, redisUrl, smtpUrl: undefined, mailUrl: undefined };
  const mail = await startMailCatcher({ dir: join(options.dataDir, 'mail') });
  lifecycle.onStop('mail catcher', () => mail.stop());
  return { databaseUrl, redisUrl, smtpUrl: mail.smtpUrl, mailUrl: mail.pageUrl };
}

interface ServersContext {
  readonly options: StartOptions;
  readonly lifecycle: Lifecycle;
  readonly log: Logger;
  readonly output: LogOutput;
}

async function keepPostgres(context: ServersContext): Promise<string> {
  const dir = join(context.options.dataDir, 'postgres');
  const log = logLines(context, 'postgres');
  return await keep<PostgresServer>(context, 'Postgres', (last) =>
    startPostgres({ dir, log, ...(last !== undefined && { port: last.port }) }),
  );
}

async function keepRedis(context: ServersContext): Promise<string> {
  const program = await findRedisServer({ log: announce });
  const dir = join(context.options.dataDir, 'redis');
  const log = logLines(context, 'redis');
  return await keep<RedisServer>(context, 'Redis', (last) =>
    startRedis({
      dir,
      program,
      log,
      ...(last !== undefined && { port: last.port, password: new URL(last.url).password }),
    }),
  );
}

/** Started again, a server is where it was (`last`): the others know it by its URL, which is returned. */
async function keep<Server extends Launched & { readonly url: string }>(
  { lifecycle, log }: ServersContext,
  name: string,
  start: (last: Server | undefined) => Promise<Server>,
): Promise<string> {
  let last: Server | undefined;
  const server = supervise({
    name,
    launch: async () => (last = await start(last)),
    onGiveUp: (err) => lifecycle.fail(err, 'giving up'),
    log,
  });
  // Before it is ready: what is being launched is stopped, too.
  lifecycle.onStop(name, () => server.stop());
  return (await server.ready).url;
}

/** What the servers say matters only to those who look for a fault. */
function logLines({ output, options }: ServersContext, service: string): (line: string) => void {
  const log = createOutputLogger(output, { service, level: options.config.LOG_LEVEL });
  return (line) => log.debug(line);
}

/** What takes long is said at once, and not only in the log. */
function announce(line: string): void {
  process.stderr.write(`${line}\n`);
}
