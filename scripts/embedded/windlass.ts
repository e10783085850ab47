/**
 * A whole Windlass for the integration tests of task authors, as `windlass/embedded`: real Postgres, Redis, api and workers
 * on free ports of this machine, their data in a temporary directory that is deleted at the end. Nothing is imitated, so what
 * works here works there; only waiting is left out: `advance` moves the service's time forward.
 *
 * ```ts
 * const windlass = await startWindlass({ tasksDir: 'my-tasks' });
 * const id = await windlass.submit('report.monthly', { month: '2026-11' }, { delayMs: 86_400_000 });
 * await windlass.advance(86_400_000);
 * await windlass.drain();
 * expect(await windlass.job(id)).toMatchObject({ state: 'succeeded' });
 * await windlass.stop();
 * ```
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { findOpenJob } from '#shared/db/jobs.ts';
import { createDb } from '#shared/db/pool.ts';
import { shiftTime } from '#shared/db/shift-time.ts';
import { launchServiceProcess } from '../start/service-process.ts';
import { freePort } from './free-port.ts';
import { startMailCatcher } from './mail-catcher.ts';
import { listMailIds, findMail } from './mail-store.ts';
import { startPostgres } from './postgres.ts';
import { readMail, type Mail } from './read-mail.ts';
import { startRedis } from './redis.ts';

export interface WindlassOptions {
  /** Your own tasks, as in WINDLASS_TASKS_DIR. */
  readonly tasksDir?: string;
  /** Worker processes. Default 1. */
  readonly workers?: number;
  /** Further configuration of api and workers, see docs/configuration.md. */
  readonly env?: Readonly<Record<string, string>>;
  /** What api and workers print, line by line. Default: kept for the error when one cannot be started. */
  readonly onLine?: (line: string) => void;
}

export interface Windlass {
  /** For fetch: `${url}/v1/jobs`. */
  readonly url: string;
  /** An admin key: `Authorization: Bearer ${key}`. */
  readonly key: string;
  /** Queues a job and gives its id. @throws Error with the answer unless it was accepted. */
  submit(task: string, input: unknown, options?: Readonly<Record<string, unknown>>): Promise<string>;
  /** The job as `GET /v1/jobs/{id}` answers it. */
  job(id: string): Promise<Readonly<Record<string, unknown>> & { readonly state: string }>;
  /**
   * Waits until nothing is left to do at this moment: no job waits for a worker, runs, or is due. What waits for a later time
   * stays; `advance` brings it nearer.
   * @throws Error that names a job that is left after `deadlineMs` (default 60,000).
   */
  drain(options?: { readonly deadlineMs?: number }): Promise<void>;
  /** Moves the service's time forward: delays, retries, `startWithinMs`, the `ttlMs` of keys, schedules and retention. */
  advance(ms: number): Promise<void>;
  /** E-mails that were sent, oldest first. */
  mails(): Mail[];
  /** Stops everything and deletes its data. */
  stop(): Promise<void>;
}

const root = fileURLToPath(new URL('../../', import.meta.url));
const stopMs = 10_000;

/** Takes a few seconds. @throws Error with the last lines of what could not be started; nothing is left running then. */
export async function startWindlass(options: WindlassOptions = {}): Promise<Windlass> {
  const dir = mkdtempSync(join(tmpdir(), 'windlass-embedded-'));
  // Task hosts may run as users of their own and have to get through to their scratch directories.
  chmodSync(dir, 0o711);
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const step of stops.splice(0).toReversed()) await step();
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    return await start(options, dir, stops, stop);
  } catch (err) {
    await stop();
    throw err;
  }
}

async function start(
  { tasksDir, workers = 1, env: more = {}, onLine = () => undefined }: WindlassOptions,
  dir: string,
  stops: (() => Promise<unknown>)[],
  stop: () => Promise<void>,
): Promise<Windlass> {
  const log = () => undefined;
  const postgres = await startPostgres({ dir: join(dir, 'postgres'), durable: false, log });
  stops.push(() => postgres.stop());
  const redis = await startRedis({ dir: join(dir, 'redis'), appendonly: false, log });
  stops.push(() => redis.stop());
  const mailDir = join(dir, 'mail');
  const mail = await startMailCatcher({ dir: mailDir });
  stops.push(() => mail.stop());

  const key = `embedded-${randomBytes(18).toString('hex')}`;
  const port = await freePort();
  const env = {
    PATH: process.env['PATH'],
    ...(process.env['NODE_COMPILE_CACHE'] !== undefined && {
      NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'],
    }),
    DATABASE_URL: postgres.url,
    REDIS_URL: redis.url,
    SMTP_URL: mail.smtpUrl,
    WINDLASS_DATA_DIR: join(dir, 'data'),
    WINDLASS_API_KEY: key,
    WINDLASS_GRACE_MS: '1000',
    PORT: String(port),
    ...(tasksDir !== undefined && { WINDLASS_TASKS_DIR: resolve(tasksDir) }),
    ...more,
  };
  const launch = async (name: string, file: string): Promise<void> => {
    const launched = await launchServiceProcess({
      name,
      file: join(root, file),
      cwd: root,
      env,
      stopMs,
      onLine,
      signal: new AbortController().signal,
    });
    stops.push(() => launched.stop());
  };
  await launch('api', 'api/main.ts');
  for (let number = 1; number <= workers; number += 1) await launch(`worker ${number}`, 'worker/main.ts');

  const db = createDb({ url: postgres.url, size: 2, timeoutMs: 5_000, name: 'windlass-embedded' });
  stops.push(() => db.end());
  const url = `http://127.0.0.1:${port}`;
  const authorization = `Bearer ${key}`;
  return {
    url,
    key,
    stop,
    async submit(task, input, jobOptions) {
      const response = await fetch(`${url}/v1/jobs`, {
        method: 'POST',
        headers: { authorization, 'content-type': 'application/json' },
        body: JSON.stringify({ task, input, ...(jobOptions !== undefined && { options: jobOptions }) }),
      });
      const body = await response.text();
      if (!response.ok) throw new Error(`The job was not accepted (${response.status}): ${body}`);
      return (JSON.parse(body) as { id: string }).id;
    },
    async job(id) {
      const response = await fetch(`${url}/v1/jobs/${id}`, { headers: { authorization } });
      if (!response.ok) throw new Error(`Job ${id}: ${response.status} ${await response.text()}`);
      return (await response.json()) as { state: string };
    },
    async drain({ deadlineMs = 60_000 } = {}) {
      const deadline = performance.now() + deadlineMs;
      for (;;) {
        const open = await findOpenJob(db);
        if (open === undefined) return;
        if (performance.now() > deadline)
          throw new Error(`Job ${open.id} (${open.task}) is still ${open.state} after ${deadlineMs} ms.`);
        await sleep(20);
      }
    },
    advance: (ms) => shiftTime(db, ms),
    mails: () =>
      listMailIds(mailDir).flatMap((id) => {
        const source = findMail(mailDir, id);
        return source === undefined ? [] : [readMail(source)];
      }),
  };
}
