import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeTar, makeZip, type ZipPart } from '#tasks/archive-extract/archives.testing.ts';
import {
  createClient,
  startApi,
  startWorker,
  type ApiProcess,
  type ServiceProcess,
  type TestJob,
} from '#test/support/service.ts';
import { createWorld, type World } from '#test/support/world.ts';

let world: World;
let api: ApiProcess;
let worker: ServiceProcess;
let client: ReturnType<typeof createClient>;

beforeAll(async () => {
  world = await createWorld();
  api = await startApi(world);
  worker = await startWorker(world, { WINDLASS_OUTPUT_FILES_MAX: '5' });
  client = createClient(api.url);
});
afterAll(async () => {
  await Promise.all([api.kill('SIGTERM'), worker.kill('SIGTERM')]);
  await world.dispose();
});

async function extract(bytes: Buffer, name: string, input: object = {}): Promise<TestJob> {
  const form = new FormData();
  form.append('task', 'archive.extract');
  form.append('input', JSON.stringify(input));
  form.append('file', new Blob([new Uint8Array(bytes)]), name);
  const accepted = await client.request('POST', '/v1/jobs', { body: form });
  expect(accepted.status).toBe(202);
  return client.finished(((await accepted.json()) as { id: string }).id);
}

const parts: readonly ZipPart[] = [
  { name: 'a/one.txt', bytes: 'one' },
  { name: '../escape.txt', bytes: 'x' },
  { name: 'b/grüße.json', bytes: '{"n":2}' },
];

test.each([
  ['zip', () => makeZip(parts)],
  [
    'tar.gz',
    async () =>
      gzipSync(await makeTar(parts.map(({ name, bytes }) => ({ name: String(name), bytes: bytes ?? '' })))),
  ],
] as const)('an uploaded %s becomes files that can be downloaded', async (format, make) => {
  const job = await extract(await make(), `archive.${format}`);
  expect(job).toMatchObject({
    state: 'succeeded',
    result: {
      format,
      files: [
        { name: 'one.txt', path: 'a/one.txt', sizeBytes: 3, mediaType: 'text/plain' },
        { name: 'grüße.json', path: 'b/grüße.json', sizeBytes: 7, mediaType: 'application/json' },
      ],
      skipped: [{ path: '../escape.txt', reason: 'unsafe-path' }],
    },
  });
  const ids: string[] = job.result.files.map(({ file }: { file: string }) => file);
  expect(job.files.map(({ id }) => id).toSorted()).toEqual(ids.toSorted());
  const contents = ids.map(async (id) => (await client.get(`/v1/files/${id}/content`)).text());
  expect(await Promise.all(contents)).toEqual(['one', '{"n":2}']);
});

test('an archive that a job cannot use fails at its first attempt, with the name of the limit, and leaves no files', async () => {
  const many = await extract(
    makeZip(Array.from({ length: 6 }, (_, index) => ({ name: `${index}.txt`, bytes: 'x' }))),
    'many.zip',
  );
  expect(many).toMatchObject({
    state: 'failed',
    error: { code: 'task-input', retryable: false },
    attempts: [{ number: 1, outcome: 'failed' }],
    files: [],
  });
  expect(many.error?.message).toContain('WINDLASS_OUTPUT_FILES_MAX');
  const cut = await extract(makeZip(parts).subarray(0, 100), 'cut.zip');
  expect(cut).toMatchObject({ state: 'failed', error: { code: 'task-input' }, attempts: [{ number: 1 }] });
  expect(cut.attempts).toHaveLength(1);
});
