import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { readConfig, type Config } from '#shared/config.ts';

export const usage = `Starts Windlass: Postgres, Redis, a mail catcher, the api and its workers.

  npm start -- [--port N] [--workers N]

  --port N      where the api listens (default 8080, or PORT)
  --workers N   how many worker processes (default 2)
  --help        this text

DATABASE_URL, REDIS_URL and SMTP_URL each replace the server that would be started. WINDLASS_DATA_DIR says where all
data is kept (default .windlass). The other variables are in docs/configuration.md.`;

export interface StartOptions {
  readonly workers: number;
  readonly config: Config;
  /** Absolute. */
  readonly dataDir: string;
  /** Undefined: start one. */
  readonly databaseUrl: string | undefined;
  readonly redisUrl: string | undefined;
  readonly smtpUrl: string | undefined;
}

export class UsageError extends Error {
  override name = 'UsageError';
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads flags and environment; `help` when that was asked for.
 * @throws UsageError or ConfigError with a sentence for the user.
 */
export function readOptions(args: readonly string[], env: Environment): StartOptions | 'help' {
  const flags = readFlags(args);
  if (flags.help === true) return 'help';
  const workers = readNumber('--workers', flags.workers ?? '2', { min: 1, max: 64 });
  const { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, SMTP_URL: smtpUrl } = withoutEmpty(env);
  const config = readConfig({
    ...env,
    ...(flags.port !== undefined && {
      PORT: String(readNumber('--port', flags.port, { min: 0, max: 65_535 })),
    }),
    // Stand-ins: these two are required, and not known before the servers run.
    DATABASE_URL: databaseUrl ?? 'postgres://127.0.0.1/windlass',
    REDIS_URL: redisUrl ?? 'redis://127.0.0.1',
  });
  return { workers, config, dataDir: resolve(config.WINDLASS_DATA_DIR), databaseUrl, redisUrl, smtpUrl };
}

function readFlags(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        port: { type: 'string' },
        workers: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (err) {
    throw new UsageError(`${err instanceof Error ? err.message : String(err)}\n\n${usage}`, { cause: err });
  }
}

function readNumber(flag: string, text: string, { min, max }: { min: number; max: number }): number {
  const number = /^\d{1,6}$/.test(text) ? Number(text) : Number.NaN;
  if (!(number >= min && number <= max)) {
    throw new UsageError(`${flag} must be a number from ${min} to ${max}, and "${text}" is not.`);
  }
  return number;
}

/** An empty variable means "not set", as everywhere (shared/config.ts). */
function withoutEmpty(env: Environment): Environment {
  return Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
}
