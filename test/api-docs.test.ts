/** docs/api.md, read by someone who pastes every example into a shell, from top to bottom. */
import { execFile } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  createClient,
  startApi,
  startWorker,
  testKey,
  type ApiProcess,
  type ServiceProcess,
} from '#test/support/service.ts';
import { createWorld, type World } from '#test/support/world.ts';
import { tmpdir } from 'node:os';

const root = fileURLToPath(new URL('../', import.meta.url));
const examples = [...readFileSync(`${root}docs/api.md`, 'utf8').matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(
  ([, source = '']) => source,
);

let world: World;
let api: ApiProcess;
let worker: ServiceProcess;
let dir: string;
beforeAll(async () => {
  world = await createWorld();
  api = await startApi(world);
  worker = await startWorker(world);
  dir = mkdtempSync(join(tmpdir(), 'windlass-docs-'));
  copyFileSync(`${root}examples/photos/misty-forest.jpg`, join(dir, 'photo.jpg'));
});
afterAll(async () => {
  rmSync(dir, { recursive: true });
  await Promise.all([api.kill('SIGTERM'), worker.kill('SIGTERM')]);
  await world.dispose();
});

test('every example of docs/api.md works as it is written', async (context) => {
  const hasCurl = await promisify(execFile)('curl', ['--version']).catch(() => undefined);
  context.skip(hasCurl === undefined, 'curl is not installed');
  expect(examples.length).toBeGreaterThan(14);
  const client = createClient(api.url);
  const upload = async (): Promise<string> => {
    const response = await client.request('POST', '/v1/files', {
      body: 'text',
      headers: { 'content-type': 'text/plain' },
    });
    return ((await response.json()) as { id: string }).id;
  };
  const ended = async (task: string, input: unknown) =>
    (await client.finished(await client.submit(task, input))).id;
  const findWorkerId = async (): Promise<string> => {
    const { data } = (await (await client.get('/v1/workers')).json()) as { data: { id: string }[] };
    return data[0]?.id ?? '';
  };
  const queueWorkflow = async (): Promise<string> => {
    const steps = { later: { task: 'test.noop', options: { delayMs: 3_600_000 } } };
    return ((await (await client.post('/v1/workflows', { steps })).json()) as { id: string }).id;
  };
  // Ids that the text speaks of; the examples make some of them themselves.
  const ids: Record<string, string> = {
    FILE_ID: await upload(),
    SPARE_FILE_ID: await upload(),
    FAILED_JOB_ID: await ended('test.fail', { how: 'invalid' }),
    ENDED_JOB_ID: await ended('test.noop', {}),
    WORKER_ID: await findWorkerId(),
    QUEUED_JOB_ID: await client.submit('test.noop', {}, { delayMs: 3_600_000 }),
    QUEUED_WORKFLOW_ID: await queueWorkflow(),
  };

  for (const source of examples) {
    const { code, output } = await paste(source, ids);
    expect({ source, code, output }).toEqual({ source, code: 0, output });
    const answer = readJson(output);
    if (source.includes('/v1/keys" ')) ids['API_KEY_ID'] = answer?.id ?? '';
    if (source.includes('/v1/jobs/batch" ')) ids['BATCH_ID'] ??= answer?.id ?? '';
    if (source.includes('"steps":')) ids['WORKFLOW_ID'] = answer?.id ?? '';
    // The first job of the text, which reads a photo.
    if (source.includes('-F task=')) ids['JOB_ID'] ??= answer?.id ?? '';
  }
  expect(ids).toMatchObject({
    API_KEY_ID: expect.any(String) as unknown,
    JOB_ID: expect.any(String) as unknown,
  });
  expect(await client.finished(ids['JOB_ID'] ?? '')).toMatchObject({
    state: 'succeeded',
    result: { width: 320, format: 'webp' },
  });
  expect(statSync(join(dir, 'small.webp')).size).toBeGreaterThan(100);
});

/** Runs it in a shell in which curl fails on an error of the server, and says what the answer was. */
async function paste(source: string, ids: Record<string, string>): Promise<{ code: number; output: string }> {
  const script = `set -e\ncurl() { command curl -sS --fail-with-body "$@"; }\n${source}`;
  const env = { PATH: process.env['PATH'], WINDLASS_URL: api.url, WINDLASS_KEY: testKey, ...ids };
  return promisify(execFile)('sh', ['-c', script], { cwd: dir, env }).then(
    ({ stdout }) => ({ code: 0, output: stdout }),
    (err: { code: number; stdout: string; stderr: string }) => ({
      code: err.code,
      output: err.stdout + err.stderr,
    }),
  );
}

function readJson(text: string): { id?: string } | undefined {
  try {
    return JSON.parse(text) as { id?: string };
  } catch {
    return undefined;
  }
}
