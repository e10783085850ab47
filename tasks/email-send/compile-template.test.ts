import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it } from 'vitest';
import { compileTemplate } from './compile-template.ts';

/** Renders the HTML of a template whose body is `body`. */
async function render(body: string, variables: object): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'windlass-template-'));
  try {
    await writeFile(
      join(dir, 'template.mjml'),
      `<mjml><mj-body><mj-section><mj-column>${body}</mj-column></mj-section></mj-body></mjml>`,
    );
    await writeFile(join(dir, 'subject.liquid'), 'Hi');
    const compiled = await compileTemplate(pathToFileURL(`${dir}/`), undefined);
    return await compiled.renderHtml(variables);
  } finally {
    await rm(dir, { recursive: true });
  }
}

it('a template that forgets to ask for an http address still makes no javascript: link', async () => {
  const html = await render('<mj-button href="{{ url }}">Go</mj-button>', { url: 'javascript:alert(1)' });
  expect(html).toContain('href="#"');
  expect(html).not.toContain('javascript:');
});

it('a template that names a web font does not make readers load it', async () => {
  expect(await render('<mj-text font-family="Ubuntu">Hi</mj-text>', {})).not.toContain('googleapis');
});

it('a template reads no other file', async () => {
  await expect(render('<mj-text>{% include "package.json" %}</mj-text>', {})).rejects.toThrow('ENOENT');
  expect(await render('<mj-include path="/etc/passwd" /><mj-text>Hi</mj-text>', {})).not.toContain('root:');
});

it('a template that never ends is stopped', async () => {
  const loop = '<mj-text>{% for i in (1..1000000000) %}x{% endfor %}</mj-text>';
  await expect(render(loop, {})).rejects.toThrow('limit exceeded');
});

it('a template with a mistake in its MJML is refused', async () => {
  await expect(render('<mj-txt>Hi</mj-txt>', {})).rejects.toThrow('mj-txt');
});

it('a template that uses an unknown variable or filter is refused', async () => {
  await expect(render('<mj-text>{{ nmae }}</mj-text>', { name: 'Ada' })).rejects.toThrow(
    'undefined variable: nmae',
  );
  await expect(render('<mj-text>{{ name | shout }}</mj-text>', { name: 'Ada' })).rejects.toThrow(
    'undefined filter: shout',
  );
});
