/** Invariant 8: the api loads no handler, and none of the libraries that handlers need. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Every module that the entry loads, relative to the repository, in a process of its own. */
async function listLoaded(entry: string): Promise<string[]> {
  const script = `
    import { registerHooks } from 'node:module';
    registerHooks({
      load(url, context, nextLoad) {
        console.log(url);
        return nextLoad(url, context);
      },
    });
    // main.ts has loaded all it imports when it finds that nothing is configured.
    await import(${JSON.stringify(`${root}${entry}`)}).catch((err) => {
      if (err.name !== 'ConfigError') throw err;
    });
    process.exit();`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: root,
    env: { PATH: process.env['PATH'] },
  });
  return stdout
    .split('\n')
    .filter((url) => url.startsWith('file:'))
    .map((url) => fileURLToPath(url).slice(root.length));
}

const forbidden =
  /(?:^|\/)handlers?\.ts$|^worker\/|^node_modules\/(?:sharp|@img|@duckdb|mjml|mjml-\w+|nodemailer|liquidjs|libheif-js|html-to-text|music-metadata|exifr|file-type)\//;

test.each(['api/app.ts', 'api/main.ts'])('%s loads no handler', async (entry) => {
  const loaded = await listLoaded(entry);
  expect(loaded).toContain(entry);
  expect(loaded).toContain('tasks/email-send/task.ts');
  expect(loaded.filter((file) => forbidden.test(file))).toEqual([]);
});

test('a handler that is loaded is seen', async () => {
  const loaded = await listLoaded('tasks/data-query/handler.ts');
  const found = loaded.filter((file) => forbidden.test(file));
  expect(found).toContain('tasks/data-query/handler.ts');
  expect(found.some((file) => file.startsWith('node_modules/@duckdb/'))).toBe(true);
});
