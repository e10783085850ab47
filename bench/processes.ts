/** The processes of a benchmark: ours, the references and the load clients, each of its own, all talked to by messages. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, closeSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchWorld } from './servers.ts';

const root = fileURLToPath(new URL('../', import.meta.url));
export const benchKey = 'bench-admin-key-0123456789';

export interface BenchProcess<Message = unknown> {
  readonly pid: number;
  /** What it said when it was ready. */
  readonly ready: Message;
  /** Sends a message and waits for the answer. */
  ask<Answer>(question: object): Promise<Answer>;
  /** The next message. @throws Error with the end of its output when it ends instead. */
  next<Answer>(): Promise<Answer>;
  /** SIGTERM, and waits for the end. */
  stop(): Promise<void>;
}

let processes = 0;

/** Starts `main` (from the root of the project) and waits for its first message. */
export async function startProcess<Message>(
  main: string,
  options: { world: BenchWorld; env?: Readonly<Record<string, string>> },
): Promise<BenchProcess<Message>> {
  const { world, env } = options;
  processes += 1;
  // A file, as under a supervisor that keeps logs: reading a pipe would be work that we do beside the measure.
  const logFile = join(world.dataDir, `process-${processes}.log`);
  const output = openSync(logFile, 'a');
  const child = spawn(process.execPath, [main], {
    cwd: root,
    stdio: ['ignore', output, output, 'ipc'],
    env: {
      PATH: process.env['PATH'],
      NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'],
      NODE_ENV: 'production',
      ...env,
    },
  });
  closeSync(output);
  const ended = once(child, 'exit');
  const next = async <Answer>(): Promise<Answer> => {
    const cancel = new AbortController();
    const end = ended.then(([code, signal]) => {
      const lines = readFileSync(logFile, 'utf8').split('\n').slice(-20).join('\n');
      throw new Error(`${main} ended (${signal ?? code}) before it answered:\n${lines}`);
    });
    try {
      const [message] = (await Promise.race([once(child, 'message', { signal: cancel.signal }), end])) as [
        Answer,
      ];
      return message;
    } finally {
      cancel.abort();
    }
  };
  const ready = await next<Message>();
  return {
    // A process that has answered has a pid.
    pid: child.pid as number,
    ready,
    next,
    ask(question) {
      const answer = next();
      child.send(question);
      return answer as Promise<never>;
    },
    async stop() {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Our api with its default configuration. */
export async function startApi(world: BenchWorld): Promise<BenchProcess<{ port: number }>> {
  return startProcess('api/main.ts', { world, env: { ...serviceEnv(world), PORT: '0' } });
}

/** One worker process of ours. @param queues as in WINDLASS_QUEUES, for example `noop:50`. */
export async function startWorker(world: BenchWorld, queues: string): Promise<BenchProcess> {
  return startProcess('worker/main.ts', { world, env: { ...serviceEnv(world), WINDLASS_QUEUES: queues } });
}

function serviceEnv(world: BenchWorld): Record<string, string> {
  return {
    DATABASE_URL: world.databaseUrl,
    REDIS_URL: world.redisUrl,
    WINDLASS_DATA_DIR: world.dataDir,
    WINDLASS_API_KEY: benchKey,
    WINDLASS_TASKS_DIR: `${root}test/fixtures/tasks`,
    WINDLASS_RATE_PER_MINUTE: '100000000',
  };
}

/** A process that a measure is compared with; it gets its Redis as REDIS_URL. */
export async function startReference<Message>(
  name: string,
  world: BenchWorld,
  env: Readonly<Record<string, string>> = {},
): Promise<BenchProcess<Message>> {
  return startProcess(`bench/references/${name}.ts`, {
    world,
    env: { REDIS_URL: world.redisUrl, DATA_DIR: world.dataDir, ...env },
  });
}
