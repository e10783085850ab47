import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { errorTable } from '#shared/errors.ts';
import { defineTask } from '#shared/tasks/define-task.ts';
import { renderDocsPage } from '#api/pages/docs-page.ts';
import { createOpenApi } from '#api/openapi.ts';
import type { OpenApiDocument } from '#api/openapi/document.ts';
import { routes } from '#api/routes.ts';
import { createTaskCatalog } from '#api/task-catalog.ts';
import { createTestApi, type TestApi } from '#test/support/api.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.dispose());

async function getPage(path: string): Promise<string> {
  const response = await fetch(api.url + path);
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
  expect(response.headers.get('content-security-policy')).toBe(
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  );
  expect(response.headers.get('x-content-type-options')).toBe('nosniff');
  return response.text();
}

const pages = ['/', '/docs', '/problems/invalid-input'];

describe('pages', () => {
  test.each(pages)(
    '%s loads nothing but our style sheet, and has no script and no inline style',
    async (path) => {
      const text = await getPage(path);
      const loaded = [...text.matchAll(/<(?:link|script|img|iframe|object|embed|style)\b[^>]*>/g)].map(
        ([tag]) => tag,
      );
      expect(loaded).toEqual(['<link rel="stylesheet" href="/docs.css" />']);
      expect(text).not.toMatch(/\sstyle=|\son\w+=|javascript:/i);
      const css = await fetch(`${api.url}/docs.css`);
      expect(css.headers.get('content-type')).toBe('text/css; charset=utf-8');
      expect(await css.text()).not.toMatch(/url\(|@import/);
    },
  );

  test.each(pages)('every link of %s leads somewhere', async (path) => {
    const text = await getPage(path);
    const links = new Set([...text.matchAll(/href="([^"]*)"/g)].map(([, link = '']) => link));
    for (const link of links) {
      const [target = '', fragment] = link.split('#');
      const response = target === '' ? undefined : await fetch(api.url + target);
      expect({ link, status: response?.status ?? 200 }).toEqual({ link, status: 200 });
      if (fragment === undefined) continue;
      const there = response === undefined ? text : await response.text();
      expect({ link, isThere: there.includes(`id="${fragment}"`) }).toEqual({ link, isThere: true });
    }
  });

  test('/docs shows every call and every task', async () => {
    const text = await getPage('/docs');
    for (const route of routes) expect(text).toContain(route.path.replaceAll(/:(\w+)/g, '{$1}'));
    for (const name of api.deps.tasks.keys()) expect(text).toContain(`id="task-${name}"`);
  });

  test('no text of a task is taken for HTML', () => {
    const nasty = `<script>alert("&'")</script>`;
    const task = defineTask({
      name: 'test.nasty',
      title: nasty,
      description: `\`${nasty}\` ${nasty}`,
      input: z.strictObject({ [nasty]: z.enum([nasty]).default(nasty).describe(nasty) }),
      output: z.object({ value: z.literal(nasty) }),
      example: { [nasty]: nasty },
    });
    const tasks = createTaskCatalog(new Map([[task.name, { definition: task, handlerUrl: undefined }]]));
    const text = renderDocsPage({
      document: createOpenApi({ routes, tasks }),
      tasks: [...tasks.values()],
      prefix: '',
    });
    expect(text).toContain('&#60;script&#62;alert(');
    expect(text).not.toMatch(/<script|alert\("/);
  });
});

describe('GET /problems/{code}', () => {
  test.each(Object.entries(errorTable))('%s is explained', async (code, { status, title }) => {
    const text = await getPage(`/problems/${code}`);
    expect(text).toContain(title);
    expect(text).toContain(`<dd>${status}</dd>`);
  });

  test.each(['nothing', '__proto__', 'constructor'])('404: %s', async (code) => {
    const response = await fetch(`${api.url}/problems/${code}`);
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({ code: 'not-found' });
  });

  test('the type of a problem leads to its page', async () => {
    const problem = (await (await fetch(`${api.url}/v1/jobs`)).json()) as { type: string };
    expect(problem.type).toBe(`${api.url}/problems/unauthorized`);
    expect((await fetch(problem.type)).status).toBe(200);
  });
});

describe('behind a proxy', () => {
  test('links begin with the path of WINDLASS_PUBLIC_URL', async () => {
    const behind = await createTestApi({ WINDLASS_PUBLIC_URL: 'https://example.com/jobs/' });
    try {
      const text = await (await fetch(`${behind.url}/docs`)).text();
      expect(text).toContain('href="/jobs/docs.css"');
      expect(text).toContain('https://example.com/jobs');
      const document = (await (await fetch(`${behind.url}/openapi.json`)).json()) as OpenApiDocument;
      expect(document.servers).toEqual([{ url: 'https://example.com/jobs' }]);
    } finally {
      await behind.dispose();
    }
  });
});

describe('GET /openapi.json', () => {
  test('names the address of the request as its server', async () => {
    const document = (await (await fetch(`${api.url}/openapi.json`)).json()) as OpenApiDocument;
    expect(document.openapi).toBe('3.1.1');
    expect(document.servers).toEqual([{ url: api.url }]);
  });

  test('its examples for curl work when they are pasted into a shell', async (context) => {
    const run = promisify(execFile);
    const hasCurl = await run('curl', ['--version']).then(
      () => true,
      () => false,
    );
    context.skip(!hasCurl, 'curl is not installed');
    const document = (await (await fetch(`${api.url}/openapi.json`)).json()) as OpenApiDocument;
    const dir = mkdtempSync(join(tmpdir(), 'windlass-docs-'));
    writeFileSync(join(dir, 'photo.jpg'), 'not really a photo');
    try {
      const samples = Object.values(document.paths).flatMap((methods) =>
        Object.values(methods).flatMap((operation) => operation['x-codeSamples']),
      );
      expect(samples.length).toBeGreaterThanOrEqual(routes.length);
      for (const { source } of samples) {
        const { stdout } = await run(
          'sh',
          ['-c', `${source} -s -o answer -w '%{http_code}'; printf ' '; cat answer`],
          {
            cwd: dir,
            env: { PATH: process.env['PATH'], WINDLASS_URL: api.url, WINDLASS_KEY: api.admin.key },
          },
        );
        // Ids in examples are made up: what they name does not exist.
        expect({ source, stdout }).toEqual({
          source,
          stdout: expect.stringMatching(/^(?:2\d\d|404|422 .*"code":"file-not-found")/) as unknown,
        });
      }
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
