import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestApi, type TestApi } from '#test/support/api.ts';
import { waitFor } from '#test/support/wait-for.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.dispose());

interface Readiness {
  readonly httpStatus: number;
  readonly status: string;
  readonly checks: Readonly<Record<string, string>>;
}

async function readiness(of: TestApi): Promise<Readiness> {
  const response = await fetch(`${of.url}/readyz`);
  return { httpStatus: response.status, ...((await response.json()) as Omit<Readiness, 'httpStatus'>) };
}

test('GET /livez: the process answers', async () => {
  const response = await fetch(`${api.url}/livez`);
  expect(response.status).toBe(200);
  expect(await response.json()).toEqual({ status: 'ok' });
});

describe('GET /readyz 200', () => {
  test('everything is there', async () => {
    const ready = await waitFor(
      async () => {
        const seen = await readiness(api);
        return seen.checks['redis'] === 'ok' ? seen : undefined;
      },
      { what: 'the connection to Redis' },
    );
    expect(ready).toMatchObject({
      httpStatus: 200,
      status: 'ready',
      checks: { postgres: 'ok', storage: 'ok', process: 'ok' },
    });
  });

  test('without Redis, which is only reported: jobs are accepted and answered for', async () => {
    const alone = await createTestApi({ REDIS_URL: 'redis://127.0.0.1:1' });
    try {
      expect(await readiness(alone)).toMatchObject({
        httpStatus: 200,
        checks: { redis: expect.stringContaining('away') as unknown },
      });
      const id = await alone.admin.submit('test.noop');
      expect(await alone.admin.job(id)).toMatchObject({ state: 'queued' });
      expect((await alone.admin.post(`/v1/jobs/${id}/cancel`)).status).toBe(202);
      expect((await alone.admin.get('/v1/jobs?q=state:cancelled')).status).toBe(200);
    } finally {
      await alone.dispose();
    }
  });
});

describe('GET /readyz 503', () => {
  test('a storage that cannot be written to', async () => {
    const broken = await createTestApi();
    const dir = join(broken.deps.config.WINDLASS_DATA_DIR, 'files');
    try {
      rmSync(dir, { recursive: true, force: true });
      writeFileSync(dir, 'not a directory');
      expect(await readiness(broken)).toMatchObject({
        httpStatus: 503,
        status: 'not ready',
        checks: { storage: 'away', postgres: 'ok' },
      });
    } finally {
      await broken.dispose();
    }
  });

  test('a process that was told to stop', async () => {
    const deps: { isStopping: () => boolean } = api.deps;
    const { isStopping } = deps;
    deps.isStopping = () => true;
    try {
      expect(await readiness(api)).toMatchObject({ httpStatus: 503, checks: { process: 'stopping' } });
      expect((await fetch(`${api.url}/livez`)).status).toBe(200);
    } finally {
      deps.isStopping = isStopping;
    }
  });
});
