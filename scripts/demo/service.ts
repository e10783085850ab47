import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { randomBytes } from 'node:crypto';
import { freePort } from '../embedded/free-port.ts';

export interface DemoService {
  readonly url: string;
  readonly key: string;
  readonly hasMailCatcher: boolean;
  /** The source of the e-mail that the job sent, from the mail catcher. */
  findMail(jobId: string): Promise<Buffer | undefined>;
  stop(): Promise<void>;
}

const startMs = 300_000;

/** The service that WINDLASS_URL names, or one of its own that lives as long as the demo. */
export async function startDemoService(): Promise<DemoService> {
  const { WINDLASS_URL: url, WINDLASS_API_KEY: key } = process.env;
  if (url !== undefined && key !== undefined) {
    return {
      url: url.replace(/\/+$/, ''),
      key,
      hasMailCatcher: false,
      findMail: () => Promise.resolve(undefined),
      stop: () => Promise.resolve(),
    };
  }
  return startOwn();
}

async function startOwn(): Promise<DemoService> {
  const dir = await mkdtemp(join(tmpdir(), 'windlass-demo-'));
  const port = await freePort();
  const key = randomBytes(24).toString('base64url');
  process.stdout.write('Starting a service for the demo (the first time this installs what is missing) …\n');
  const child = spawn(process.execPath, [join(import.meta.dirname, '../start.ts'), '--workers', '2'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      WINDLASS_DATA_DIR: dir,
      WINDLASS_API_KEY: key,
      PORT: String(port),
      LOG_LEVEL: 'warn',
    },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-8_000);
    });
  }
  const exited = once(child, 'exit');
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    await exited;
    await rm(dir, { recursive: true, force: true });
  };
  const url = `http://127.0.0.1:${port}`;
  const until = performance.now() + startMs;
  while (!(await isReady(url))) {
    if (child.exitCode !== null || performance.now() > until) {
      await stop();
      throw new Error(`The service did not start:\n${output}`);
    }
    await sleep(100);
  }
  return { url, key, hasMailCatcher: true, findMail: (jobId) => findMail(join(dir, 'mail'), jobId), stop };
}

async function isReady(url: string): Promise<boolean> {
  return fetch(`${url}/readyz`).then(
    (response) => response.ok,
    () => false,
  );
}

/** The Message-ID of an e-mail is made from the id of its job. */
async function findMail(dir: string, jobId: string): Promise<Buffer | undefined> {
  for (const name of await readdir(dir).catch(() => [])) {
    if (!name.endsWith('.eml')) continue;
    const source = await readFile(join(dir, name));
    if (source.includes(jobId)) return source;
  }
  return undefined;
}
