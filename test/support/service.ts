/** The whole service as separate processes, as a user runs it: api and workers that a test may kill, freeze and restart. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Tasks that only tests need, loaded like a user's own. */
export const testTasksDir = `${root}test/fixtures/tasks`;
export const testKey = 'test-admin-key-0123456789';

export interface ServiceProcess {
  readonly pid: number;
  /** JSON log lines so far, and whatever else was printed. */
  readonly lines: readonly string[];
  /** True until it has ended. */
  isRunning(): boolean;
  /** Sends a signal and, unless told otherwise, waits for the end. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  signal(signal: NodeJS.Signals): void;
  readonly exited: Promise<number | null>;
}

export interface ApiProcess extends ServiceProcess {
  readonly url: string;
}

export interface ServiceWorld {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly redisPrefix: string;
  readonly dataDir: string;
}

type Env = Readonly<Record<string, string>>;

/** @param through a command that runs the one after it with other rights, `setpriv` for example. */
export async function startApi(
  world: ServiceWorld,
  env: Env = {},
  through: readonly string[] = [],
): Promise<ApiProcess> {
  const started = startService('api/main.ts', world, { PORT: '0', ...env }, through);
  const { port } = await started.ready();
  return { ...started.process, url: `http://127.0.0.1:${port}` };
}

/** @param through as in `startApi`. */
export async function startWorker(
  world: ServiceWorld,
  env: Env = {},
  through: readonly string[] = [],
): Promise<ServiceProcess> {
  const started = startService('worker/main.ts', world, { WINDLASS_SLOTS: '2', ...env }, through);
  await started.ready();
  return started.process;
}

/** Starts without waiting for readiness, for processes that are expected to die early. */
export function startUnready(
  main: 'api/main.ts' | 'worker/main.ts',
  world: ServiceWorld,
  env: Env = {},
): ServiceProcess {
  return startService(main, world, env).process;
}

export interface StartedService {
  readonly process: ServiceProcess;
  /** Waits for the message by which it says that it is ready. @throws Error with its output when it ends instead. */
  ready(): Promise<{ readonly port?: number }>;
}

/** Starts a process and leaves it to the caller when to wait for it. */
export function startService(
  main: 'api/main.ts' | 'worker/main.ts',
  world: ServiceWorld,
  env: Env,
  through: readonly string[] = [],
): StartedService {
  const [program, ...args] = [...through, process.execPath, main];
  const child = spawn(program, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: {
      PATH: process.env['PATH'],
      // Half of what a start costs otherwise, and the tests start hundreds.
      ...(process.env['NODE_COMPILE_CACHE'] !== undefined && {
        NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'],
      }),
      NODE_ENV: 'test',
      DATABASE_URL: world.databaseUrl,
      REDIS_URL: world.redisUrl,
      REDIS_PREFIX: world.redisPrefix,
      WINDLASS_DATA_DIR: world.dataDir,
      WINDLASS_API_KEY: testKey,
      WINDLASS_TASKS_DIR: testTasksDir,
      WINDLASS_GRACE_MS: '5000',
      LOG_LEVEL: 'debug',
      ...env,
    },
  });
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream
      ?.setEncoding('utf8')
      .on('data', (text: string) => lines.push(...text.split('\n').filter((line) => line !== '')));
  }
  const exited = once(child, 'exit').then(([code]) => code as number | null);
  const { pid } = child;
  if (pid === undefined) throw new Error(`${main} could not be started.`);
  const signal = (name: NodeJS.Signals): void => void process.kill(pid, name);
  const isRunning = () => child.exitCode === null && child.signalCode === null;
  return {
    ready() {
      const message = once(child, 'message').then(([value]) => value as { port?: number });
      const early = exited.then((code) => {
        throw new Error(
          `The process ended with code ${code} before it was ready:\n${lines.slice(-20).join('\n')}`,
        );
      });
      return Promise.race([message, early]);
    },
    process: {
      pid,
      lines,
      exited,
      isRunning,
      signal,
      async kill(name = 'SIGKILL') {
        if (isRunning()) signal(name);
        await exited;
      },
    },
  };
}

/** A client with the admin key. */
export function createClient(url: string, key: string = testKey) {
  async function request(
    method: string,
    path: string,
    options: { json?: unknown; body?: NonNullable<RequestInit['body']>; headers?: Env } = {},
  ): Promise<Response> {
    return fetch(url + path, {
      method,
      redirect: 'manual',
      headers: {
        authorization: `Bearer ${key}`,
        ...(options.json !== undefined && { 'content-type': 'application/json' }),
        ...options.headers,
      },
      ...(options.json !== undefined
        ? { body: JSON.stringify(options.json) }
        : options.body !== undefined && { body: options.body }),
    });
  }
  return {
    request,
    get: (path: string, headers?: Env) => request('GET', path, headers === undefined ? {} : { headers }),
    post: (path: string, json?: unknown, headers?: Env) =>
      request('POST', path, {
        ...(json !== undefined && { json }),
        ...(headers !== undefined && { headers }),
      }),
    /** Queues a job and returns its id. @throws Error unless it was accepted. */
    async submit(task: string, input: unknown = {}, options?: unknown): Promise<string> {
      const response = await request('POST', '/v1/jobs', {
        json: { task, input, ...(options !== undefined && { options }) },
      });
      if (response.status !== 202) throw new Error(`${response.status} ${await response.text()}`);
      return ((await response.json()) as { id: string }).id;
    },
    async job(id: string): Promise<TestJob> {
      return (await (await request('GET', `/v1/jobs/${id}`)).json()) as TestJob;
    },
    /** Waits for the end of a job, through restarts of the api as well. */
    async finished(id: string, deadlineMs = 200_000): Promise<TestJob> {
      const until = Date.now() + deadlineMs;
      let last: unknown;
      while (Date.now() < until) {
        try {
          const job = (await (await request('GET', `/v1/jobs/${id}?wait=5`)).json()) as TestJob;
          if (['succeeded', 'failed', 'cancelled'].includes(job.state)) return job;
          last = job;
        } catch (err) {
          last = err;
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
      }
      throw new Error(`Job ${id} did not end in ${deadlineMs} ms; last seen: ${JSON.stringify(last)}`);
    },
  };
}

export interface TestJob {
  readonly id: string;
  readonly state: string;
  readonly result: any;
  readonly error: { code: string; message: string; retryable: boolean } | null;
  readonly attempts: {
    number: number;
    outcome: string;
    worker: string;
    error: { code: string; message: string } | null;
  }[];
  readonly files: { id: string; name: string; size: number; sha256: string }[];
  readonly progress: { percent: number; message: string | null };
  readonly [key: string]: unknown;
}
