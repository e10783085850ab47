/**
 * The only reader of `process.env`. Every option has its meaning, its default and its unit here;
 * docs/configuration.md is generated from this schema, so nothing is described twice.
 *
 * All problems are reported at once: an operator should not restart six times to find six typos.
 */
import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { bundleMax } from './queue/bundles.ts';
import { readSecretFiles } from './secret-files.ts';

const cores = availableParallelism();
const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;

const int = (fallback: number, min: number, max = Number.MAX_SAFE_INTEGER) =>
  z.coerce.number().int().min(min).max(max).default(fallback);
const list = () =>
  z
    .string()
    .default('')
    .transform((text) =>
      text
        .split(',')
        .map((item) => item.trim())
        .filter((item) => item !== ''),
    );

/** `image:2,email:20` → `{ image: 2, email: 20 }`: slots per queue of one worker process. */
const queueSlots = z
  .string()
  .default('')
  .transform((text, ctx) => {
    const slots: Record<string, number> = {};
    for (const part of text.split(',').filter((item) => item.trim() !== '')) {
      const match = /^\s*([a-z][a-z0-9-]{0,62})\s*:\s*([1-9]\d{0,3})\s*$/.exec(part);
      if (match?.[1] === undefined) {
        ctx.addIssue({ code: 'custom', message: `"${part}" is not name:slots, for example image:2` });
        continue;
      }
      slots[match[1]] = Number(match[2]);
    }
    return slots;
  });

export const configSchema = z.object({
  // Where things are
  DATABASE_URL: z
    .url({ protocol: /^postgres(ql)?$/ })
    .describe('Postgres 16 or newer: the record of all jobs.'),
  REDIS_URL: z
    .url({ protocol: /^rediss?$/ })
    .describe('Redis 6.2 or newer, or Valkey: the dispatch. May be lost at any time without losing a job.'),
  REDIS_PREFIX: z
    .string()
    .regex(/^[\w{}-]{1,64}$/)
    .default('wl')
    .describe('First part of every Redis key.'),
  WINDLASS_DATA_DIR: z
    .string()
    .min(1)
    .default('.windlass')
    .describe(
      'Directory of the stored files and of the scratch space of running jobs; shared by api and workers.',
    ),
  WINDLASS_TASKS_DIR: z
    .string()
    .min(1)
    .optional()
    .describe('Directory of your own tasks (one folder each), loaded beside the built-in ones.'),

  // HTTP
  HOST: z.string().min(1).default('127.0.0.1').describe('Address the api listens on.'),
  PORT: int(8080, 0, 65_535).describe('Port the api listens on; 0 takes a free one.'),
  WINDLASS_PUBLIC_URL: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Base URL that clients see, used in absolute links. Default: the URL of the request.'),
  WINDLASS_AUTH: z
    .enum(['on', 'off'])
    .default('on')
    .describe('`off` lets every caller in as admin; refused unless HOST is a loopback address.'),
  WINDLASS_API_KEY: z
    .string()
    .regex(/^[\x21-\x7e]{24,255}$/, '24 to 255 visible ASCII characters')
    .optional()
    .describe('Sets the first admin key instead of making one. Only used while the database holds no key.'),

  // Limits of the API
  WINDLASS_JSON_BYTES_MAX: int(256 * KiB, 1 * KiB, 64 * MiB).describe(
    'Largest JSON body, and largest `input` of a job, in bytes.',
  ),
  WINDLASS_JSON_DEPTH_MAX: int(32, 1, 1_000).describe('Deepest nesting of a JSON body.'),
  WINDLASS_JSON_KEYS_MAX: int(1_000, 1).describe('Most keys (and array items) in a JSON body.'),
  WINDLASS_BATCH_ITEMS_MAX: int(1_000, 1, 10_000).describe(
    'Most jobs in one batch that is sent as JSON. Limits of a JSON body hold for each of them.',
  ),
  WINDLASS_BATCH_BYTES_MAX: int(8 * MiB, 1 * KiB, 64 * MiB).describe(
    'Largest batch that is sent as JSON, in bytes.',
  ),
  WINDLASS_BATCH_LINES_MAX: int(100_000, 1, 1_000_000).describe(
    'Most lines in one batch that is sent as NDJSON. A line may be as long as a JSON body.',
  ),
  WINDLASS_FILE_BYTES_MAX: int(5 * GiB, 1).describe('Largest uploaded file, in bytes.'),
  WINDLASS_FILES_PER_REQUEST_MAX: int(10, 1, 100).describe('Most `file` parts in one multipart request.'),
  WINDLASS_UPLOADS_PER_TENANT_MAX: int(64, 1).describe(
    'Most uploads at once for one tenant in one api process.',
  ),
  WINDLASS_UPLOAD_IDLE_MS: int(30_000, 1_000).describe(
    'An upload that sends nothing for this long is cut off.',
  ),
  WINDLASS_UPLOAD_RATE_MIN: int(1 * KiB, 0).describe(
    'An upload slower than this over 60 s is cut off, in bytes per second.',
  ),
  WINDLASS_DISK_USED_MAX: z.coerce
    .number()
    .min(0.1)
    .max(1)
    .default(0.9)
    .describe('Uploads are refused with 507 when the storage disk is fuller than this share.'),
  WINDLASS_BACKLOG_MAX: int(5_000_000, 1).describe(
    'Jobs waiting in all queues before new ones are refused with 503.',
  ),
  WINDLASS_WAITING_PER_TENANT_MAX: int(0, 0).describe(
    'Jobs of one tenant that wait (in all queues, those for later included) before its new ones are refused with 429 and its schedules make none; 0 for no limit. Each further api process can pass it by a sixteenth.',
  ),
  WINDLASS_BYTES_PER_TENANT_MAX: int(0, 0).describe(
    'Bytes of all files of one tenant before its uploads are refused with 507; 0 for no limit. Files that jobs produce count, and are not refused. Each further api process can pass it by a sixteenth.',
  ),
  WINDLASS_SCHEDULES_PER_TENANT_MAX: int(1_000, 0).describe('Most schedules of one tenant.'),
  WINDLASS_RATE_PER_MINUTE: int(1_000_000, 1).describe(
    'Requests a minute that one tenant may send to one api process before 429. Each job of a batch counts.',
  ),
  WINDLASS_CONNECTIONS_MAX: int(10_000, 1).describe('Open client connections of one api process.'),
  WINDLASS_WAIT_MS_MAX: int(60_000, 0, 300_000).describe('Longest `?wait=`, in ms.'),

  // How long things are kept
  WINDLASS_FILE_RETENTION_MS: int(7 * 86_400_000, 1_000).describe(
    'An uploaded file that no schedule and no unfinished job refers to is deleted this long after its upload, in ms.',
  ),
  WINDLASS_JOB_RETENTION_MS: int(7 * 86_400_000, 1_000).describe(
    'A finished job, its result and its files are deleted this long after it finished, in ms, unless the task or the job says otherwise.',
  ),
  WINDLASS_IDEMPOTENCY_MS: int(86_400_000, 1_000).describe(
    'How long an Idempotency-Key is remembered, in ms.',
  ),

  // Workers
  WINDLASS_QUEUES: queueSlots.describe(
    'Slots per queue of one worker process, as `image:2,email:20`. Queues not named are not served. Default: every queue of a known task, with WINDLASS_SLOTS or WINDLASS_INLINE_SLOTS slots.',
  ),
  WINDLASS_SLOTS: int(cores, 1, 1_000).describe(
    'Jobs at once per queue whose tasks run in child processes. Default: the number of cores.',
  ),
  WINDLASS_INLINE_SLOTS: int(50, 1, 1_000).describe('Jobs at once per queue whose tasks only wait (e-mail).'),
  WINDLASS_LEASE_MS: int(6_000, 1_000, 600_000).describe(
    'A worker silent for this long is dead, and its jobs start again elsewhere, in ms.',
  ),
  WINDLASS_GRACE_MS: int(25_000, 0, 3_600_000).describe(
    'On SIGTERM running jobs may finish for this long, in ms; then they are put back without using an attempt.',
  ),
  WINDLASS_HOST_JOBS_MAX: int(1_000, 1).describe(
    'A task host (child process) is replaced after this many jobs.',
  ),
  WINDLASS_HOST_MEMORY_MAX: int(2 * GiB, 64 * MiB).describe(
    'Memory one task host may allocate, in bytes, beyond what V8 reserves for code (RLIMIT_DATA).',
  ),
  WINDLASS_MEMORY_RESERVE: int(256 * MiB, 0).describe(
    'While less memory than this is left on the machine or in its container, a worker that runs something starts no further task host job, in bytes. 0: never waits.',
  ),
  WINDLASS_HOST_RECYCLE_RSS: int(512 * MiB, 32 * MiB).describe(
    'A task host whose resident memory is above this after a job is replaced, in bytes.',
  ),
  WINDLASS_HOST_FILE_BYTES_MAX: int(10 * GiB, 1 * MiB).describe(
    'Largest file a task may write, in bytes (RLIMIT_FSIZE).',
  ),
  WINDLASS_HOST_UID_BASE: int(20_000, 1_000, 4_000_000_000).describe(
    'Task hosts run as this user id plus their slot, where the worker may change ids (in the container).',
  ),
  WINDLASS_RESULT_BYTES_MAX: int(256 * KiB, 1 * KiB, 16 * MiB).describe(
    'Largest JSON result of a job, in bytes. Larger results belong in a file.',
  ),
  WINDLASS_OUTPUT_FILES_MAX: int(1_000, 1).describe('Most files one job may produce.'),
  WINDLASS_LOG_LINES_MAX: int(1_000, 0).describe('Log lines kept of one job.'),
  WINDLASS_HEALTH_PORT: int(0, 0, 65_535).describe(
    "Port of the worker's own /livez and /readyz on 127.0.0.1; 0 for none.",
  ),

  // E-mail
  SMTP_URL: z
    .url({ protocol: /^smtps?$/ })
    .optional()
    .describe('Mail server for the task email.send, as smtp://user:password@host:587.'),
  SMTP_FROM: z
    .string()
    .max(320)
    .default('Windlass <windlass@localhost.localdomain>')
    .describe('Sender of e-mails that name none.'),
  SMTP_FROM_DOMAINS: list().describe(
    'Domains that `from` may use, separated by commas. Default: the domain of SMTP_FROM.',
  ),
  SMTP_REQUIRE_TLS: z.stringbool().default(false).describe('Refuse a mail server that does not offer TLS.'),

  // Logs and Postgres
  LOG_LEVEL: z
    .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
    .default('info')
    .describe('Least severe log line that is written.'),
  WINDLASS_DB_POOL: int(10, 2, 200).describe('Postgres connections of one process.'),
  WINDLASS_DB_TIMEOUT_MS: int(5_000, 100).describe(
    'Longest wait for a Postgres connection before 503, in ms.',
  ),
  NODE_COMPILE_CACHE: z
    .string()
    .optional()
    .describe('Directory of the compile cache of Node, passed on to task hosts. Set in the images.'),
  CRASH_AT: z
    .string()
    .optional()
    .describe('Tests only (needs NODE_ENV=test): the process kills itself at this point.'),
  BUNDLE_SIZE: z.coerce
    .number()
    .int()
    .min(1)
    .max(bundleMax)
    .optional()
    .describe(
      'Tests only (needs NODE_ENV=test): what is fed goes to Redis in bundles of so many deliveries.',
    ),
});

/** What only tests may set. */
export const testSettings = ['CRASH_AT', 'BUNDLE_SIZE'] as const;

export type Config = Readonly<z.infer<typeof configSchema>>;

/** Thrown with every problem of the environment in its message. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

/**
 * Reads and checks the environment.
 * @throws ConfigError naming every variable that is wrong and what it should be.
 */
export function readConfig(env: Readonly<Record<string, string | undefined>> = process.env): Config {
  // An empty variable means "not set": that is what compose files and .env templates produce.
  const given = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ''),
  );
  const { settings, problems } = readSecretFiles(given);
  const parsed = configSchema.safeParse(settings);
  if (!parsed.success || problems.length > 0) {
    const issues = parsed.error?.issues ?? [];
    const lines = [...problems, ...issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)].map(
      (line) => `  ${line}`,
    );
    throw new ConfigError(
      `The configuration has ${lines.length} problem(s):\n${lines.join('\n')}\nSee docs/configuration.md.`,
    );
  }
  const config = parsed.data;
  if (config.WINDLASS_AUTH === 'off' && !isLoopback(config.HOST)) {
    throw new ConfigError(
      `WINDLASS_AUTH=off is refused on ${config.HOST}: it would let anyone on the network in. Set HOST=127.0.0.1, or use keys.`,
    );
  }
  const forTests = testSettings.find((name) => config[name] !== undefined);
  if (forTests !== undefined && env['NODE_ENV'] !== 'test')
    throw new ConfigError(`${forTests} is for tests and is only read with NODE_ENV=test. Unset it.`);
  return Object.freeze(config);
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}
